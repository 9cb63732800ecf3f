"""A solver for odekit."""

ODEKIT_PROTOCOL = 1
