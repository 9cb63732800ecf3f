"""Methods whose steps can be taken back: the start of a step is computed from its end, to rounding."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import attrs
from torch import Tensor

from odekit.core.protocols import ODESolver, Step, VectorField
from odekit.core.times import Time
from odekit.core.tolerance import Tolerance


@attrs.frozen(eq=False)
class Undone:
    """A step that was taken back, as a graph of its end over its start.

    Attributes:
        step: with ``y1`` and ``carry`` as functions of the leaves ``y0`` and ``carry0``.
        carry0: what the step began from beside ``y0``.
        links: leaves within it, each with what it stands for, as a function of leaves that come later or of the start:
            where f was asked at a point before it was known what that follows from.
    """

    step: Step
    carry0: Any
    links: tuple[tuple[Tensor, Tensor], ...] = ()


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


class UndoingSolver(ReversibleSolver):
    """A reversible method that asks f at the same points on both ways, so that one evaluation serves for both."""

    @abstractmethod
    def undo(self, f: VectorField, t0: Time, t1: Time, y1: Tensor, carry: Any) -> Undone:
        """:meth:`reverse`, and the step as a graph. Called with gradients enabled, on tensors without."""


def leaf(x: Tensor) -> Tensor:
    """The values of ``x``, to differentiate with respect to."""
    return x.detach().requires_grad_()
