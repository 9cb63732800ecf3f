"""Coupling flows as density models of odekit: Real NVP, and Glow's for vectors."""
