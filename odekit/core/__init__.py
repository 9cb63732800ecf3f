"""Numerics: the protocols and the one integration loop. Knows no concrete solver, no plugin and no command line."""
