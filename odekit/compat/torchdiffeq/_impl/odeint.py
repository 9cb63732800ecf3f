"""The forward solves and the methods, under the path that they have in torchdiffeq."""

from odekit.compat.interface import SOLVERS, odeint, odeint_dense, odeint_event

__all__ = ["SOLVERS", "odeint", "odeint_dense", "odeint_event"]
