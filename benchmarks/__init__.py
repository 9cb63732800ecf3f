"""Side by side: what odekit reaches, and how fast. Never part of the tests."""
