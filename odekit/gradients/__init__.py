"""Gradient methods: who owns memory between the forward solve and the backward pass."""

from odekit.gradients.adjoint import Adjoint
from odekit.gradients.checkpointed import Checkpointed
from odekit.gradients.direct import Direct

__all__ = ["Adjoint", "Checkpointed", "Direct"]
