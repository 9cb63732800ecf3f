"""A third-order solver for odekit, as an example of a plugin."""
