"""What programs import from inside of torchdiffeq, such as ``from torchdiffeq._impl.odeint import SOLVERS``.

Names with the meaning that they have there, and no others: its solver classes have no counterpart."""

import importlib

for _inside in ("adjoint", "misc", "odeint"):  # first, for two of the functions below have the names of modules
    importlib.import_module(f"{__name__}.{_inside}")

from odekit.compat.interface import odeint, odeint_adjoint, odeint_dense, odeint_event  # noqa: E402

__all__ = ["odeint", "odeint_adjoint", "odeint_dense", "odeint_event"]
