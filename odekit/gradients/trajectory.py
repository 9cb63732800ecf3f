"""A forward solve as a function of time: its accepted steps with their dense output, kept for the way back."""

from __future__ import annotations

import bisect
import math

import attrs
from torch import Tensor

from odekit.core.dense import Kept, Recorder


class Trajectory(Recorder[Kept]):
    """Keeps every accepted step, ready to be interpolated, and passes it on to the caller's own recorder if it has one.

    The state at a time is that of the step in which it lies. No step reaches beyond a discontinuity of f, where steps
    must end, so that none is interpolated across one.
    """

    def __init__(self, other: Recorder[Kept] | None) -> None:
        super().__init__()
        self.other = other
        self._ends: list[float] = []
        self._sign = 1.0

    def add(self, kept: Kept) -> None:
        bare = attrs.evolve(kept.densified(), error=None, carry=None, retry=None)
        super().add(attrs.evolve(kept, step=bare))
        if self.other is not None:
            self.other.add(kept)
        self._sign = math.copysign(1.0, kept.t1 - kept.t0)
        self._ends.append(kept.t1 * self._sign)

    def state(self, t: float) -> Tensor:
        """y(t)."""
        kept, theta = self._place(t)
        return kept.solver.interpolate(kept.step, theta)

    def slope(self, t: float) -> Tensor:
        """dy/dt of the dense output there."""
        kept, theta = self._place(t)
        return kept.solver.derivative(kept.step, theta)

    def _place(self, t: float) -> tuple[Kept, float]:
        place = min(bisect.bisect_left(self._ends, t * self._sign), len(self._ends) - 1)
        kept = self.steps[place]
        return kept, min(max((t - kept.t0) / (kept.t1 - kept.t0), 0.0), 1.0)
