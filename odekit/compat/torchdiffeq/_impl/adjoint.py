"""The adjoint, under the path that it has in torchdiffeq."""

from odekit.compat.adjoint import parameters_of as find_parameters
from odekit.compat.interface import odeint_adjoint

__all__ = ["find_parameters", "odeint_adjoint"]
