"""torchdiffeq's interface on odekit's solvers: ``import odekit.compat.torchdiffeq as torchdiffeq``.

The same functions, arguments, method names, options, callbacks and result shapes, at the same paths. What differs, and
why, is in docs/torchdiffeq.md.
"""

from odekit.compat.torchdiffeq._impl import odeint, odeint_adjoint, odeint_dense, odeint_event
from odekit.compat.torchdiffeq._impl.odeint import SOLVERS

__all__ = ["SOLVERS", "odeint", "odeint_adjoint", "odeint_dense", "odeint_event"]

__version__ = "0.2.5"
"""The release of torchdiffeq that a program may take this for."""
