"""Methods whose steps can be taken back: the start of a step is computed from its end, to rounding."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor

from odekit.core.protocols import ODESolver, VectorField
from odekit.core.times import Time
from odekit.core.tolerance import Tolerance


class ReversibleSolver(ODESolver):
    """A method with an algebraic inverse, so that a backward pass needs no stored states.

    That is more than being symmetric: no equations are solved, and the inverse belongs to the computed numbers. Where
    the solution contracts, rounding errors grow on the way back as that contraction undone. A step that is rejected
    leaves what the solver was handed as it was: its ``retry`` is None.
    """

    def prepared(self, tolerance: Tolerance) -> ReversibleSolver:
        return self

    @abstractmethod
    def reverse(self, f: VectorField, t0: Time, t1: Time, y1: Tensor, carry: Any) -> tuple[Tensor, Any]:
        """``(y0, carry)`` that ``step(f, t0, t1, y0, carry)`` made ``y1`` and this carry from."""
