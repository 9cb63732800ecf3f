"""Registers the gradient methods."""
