"""Hamiltonian and Lagrangian networks as models of odekit, and mechanical systems to learn."""
