"""The Jacobian of an implicit method and its factors, kept from step to step while they serve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from odekit.core.jacobian import Factored
from odekit.core.linear import Linear
from odekit.core.protocols import VectorField
from odekit.core.times import RowTimes, Time, host

_SAME = 1e-6
"""Steps whose sizes differ by no more than this, relatively, share their factors."""


class Kept(NamedTuple):
    """What one step leaves to the next. Arrays are ``[R]``: one entry, or one a row that has steps of its own.

    Attributes:
        jacobian: ∂f/∂y of some earlier point; None before the first step, and for a way of solving that keeps none.
        factors: of I - h s ∂f/∂y for the method's shifts s.
        size: the h that they were made for.
        contraction: of the Newton iterations, see :class:`~odekit.core.nonlinear.Solved`.
        serves: whether the Jacobian is to be used again.
    """

    jacobian: Any
    factors: tuple[Any, ...] | None
    size: np.ndarray
    contraction: np.ndarray
    serves: np.ndarray

    @classmethod
    def begun(cls, f: VectorField, linear: Linear, t0: Time, y0: Tensor) -> Kept:
        """Before the first step from ``(t0, y0)``; by row with a Jacobian, so that all carries are nested alike."""
        rows = by_row(t0)
        count = y0.shape[0] if rows else 1
        unknown = np.full(count, math.inf)
        made = f.linearised(t0, y0.detach(), linear) if rows and linear.keeps else None
        return cls(made, None, unknown, unknown, np.full(count, made is not None))


def by_row(t: Time) -> bool:
    """Whether every row has a time of its own."""
    return isinstance(t, RowTimes) or (isinstance(t, Tensor) and t.ndim > 0)


class Linearisation:
    """The Jacobian in use during one step that starts at ``(t0, y0)`` with size ``dt``, and its factors.

    Local to the step, and the only thing in it that changes.

    Attributes:
        at_start: for which systems ``[R]`` the Jacobian that the step began with is the one at its start.
        renewed: which ones have had another one since.
    """

    def __init__(
        self, f: VectorField, linear: Linear, kept: Kept, t0: Time, y0: Tensor, dt: Time, shifts: Sequence[complex]
    ) -> None:
        self.f, self.linear, self.shifts = f, linear, shifts
        self.t0, self.y0 = t0, y0.detach()
        self.kept = kept
        self.size = np.atleast_1d(np.asarray(host(dt), dtype=np.float64))
        self.at_start = ~kept.serves
        self.renewed = np.zeros_like(self.at_start)
        self.jacobian = kept.jacobian
        factors = kept.factors
        if self.at_start.any():
            self.jacobian = self._merged(f.linearised(t0, self.y0, linear), self.at_start)
            factors = None
        with np.errstate(invalid="ignore"):
            same = np.abs(self.size - kept.size) <= _SAME * np.abs(self.size)
        self.factored_for = np.where(same, kept.size, self.size)
        self.factors: dict[int, Factored] = dict(enumerate(factors)) if factors and same.all() else {}
        self.first = self.jacobian

    @property
    def whole(self) -> bool:
        return self.solver(0).whole

    def solver(self, index: int) -> Factored:
        """The factors of I - h s ∂f/∂y for the shift s with this index."""
        if index not in self.factors:
            h = self.factored_for * self.shifts[index]
            self.factors[index] = self.jacobian.factored(h if len(h) > 1 or by_row(self.t0) else h[0].item())
        return self.factors[index]

    def renew(self, t: Time, y: Tensor, wanted: np.ndarray) -> None:
        """For the systems ``wanted``, take the Jacobian at ``(t, y)``."""
        self.jacobian = self._merged(self.f.linearised(t, y, self.linear), wanted)
        self.renewed = self.renewed | wanted
        self.factors = {}

    def renew_at_start(self, wanted: np.ndarray) -> np.ndarray:
        """For those of the systems ``wanted`` that do not have it yet, take the Jacobian at the start of the step."""
        stale = wanted & ~self.at_start
        if stale.any():
            self.jacobian = self._merged(self.f.linearised(self.t0, self.y0, self.linear), stale)
            self.at_start = self.at_start | stale
            self.first, self.factors = self.jacobian, {}
        return stale

    def to_keep(self, contraction: np.ndarray, serves: np.ndarray) -> Kept:
        """What the next step gets."""
        if not self.linear.keeps:
            return self.kept._replace(contraction=contraction)
        factors = (
            tuple(self.factors[k] for k in range(len(self.shifts))) if len(self.factors) >= len(self.shifts) else None
        )
        if by_row(self.t0):
            factors = None
        return Kept(self.jacobian, factors, self.factored_for, contraction, serves)

    def to_retry(self) -> Kept | None:
        """What another, shorter try at this step gets; None if that is what this one got."""
        if not self.linear.keeps or not (self.at_start | self.renewed).any():
            return None
        serves = self.at_start | (self.kept.serves & ~self.renewed)
        return self.kept._replace(jacobian=self.first, factors=None, serves=serves)

    def _merged(self, new: Any, wanted: np.ndarray) -> Any:
        return new if self.jacobian is None or wanted.all() else self.linear.merged(wanted, new, self.jacobian)
