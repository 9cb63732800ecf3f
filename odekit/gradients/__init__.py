"""Gradient methods: who owns memory between the forward solve and the backward pass."""

from odekit.gradients.adjoint import Adjoint
from odekit.gradients.auto import Auto
from odekit.gradients.checkpointed import Checkpointed
from odekit.gradients.direct import Direct
from odekit.gradients.forward import Forward
from odekit.gradients.implicit import Implicit
from odekit.gradients.interpolated import Interpolated
from odekit.gradients.reversible import Reversal
from odekit.gradients.symplectic import Symplectic

__all__ = ["Adjoint", "Auto", "Checkpointed", "Direct", "Forward", "Implicit", "Interpolated", "Reversal", "Symplectic"]
