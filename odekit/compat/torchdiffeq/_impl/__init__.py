"""What programs import from inside of torchdiffeq, such as ``from torchdiffeq._impl.odeint import SOLVERS``.

Names with the meaning that they have there, and no others: its solver classes have no counterpart. The imports are
relative, so that they hold under the name ``torchdiffeq`` too.
"""

from .adjoint import odeint_adjoint
from .odeint import odeint, odeint_dense, odeint_event

__all__ = ["odeint", "odeint_adjoint", "odeint_dense", "odeint_event"]
