"""Solvers around solvers: what torchdiffeq's fixed-step options change about a method."""

from __future__ import annotations

import bisect
import math
from typing import Any

import attrs
import torch
from torch import Tensor

from odekit.core.protocols import Step, VectorField
from odekit.core.times import Time, coefficient, host
from odekit.core.wrapper import Wrapper


@attrs.frozen(eq=False)
class Wrapped(Wrapper):
    """A solver that does everything as another one does."""

    def step(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Any) -> Step:
        return self.solver.step(f, t0, t1, y0, carry)

    def advance(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Any) -> Step:
        return self.solver.advance(f, t0, t1, y0, carry)

    def densify(self, f: VectorField, step: Step) -> Step:
        return self.solver.densify(f, step)

    def interpolate(self, step: Step, theta: Time) -> Tensor:
        return self.solver.interpolate(step, theta)


@attrs.frozen(eq=False)
class Linear(Wrapped):
    """States inside a step lie on the straight line between its ends."""

    def densify(self, f: VectorField, step: Step) -> Step:
        return step

    def interpolate(self, step: Step, theta: Time) -> Tensor:
        return torch.add(step.y0, coefficient(theta, step.y0) * (step.y1 - step.y0))


@attrs.frozen(eq=False)
class Differentiated(Wrapped):
    """Steps begin and end at points of a grid that is differentiated with respect to.

    Attributes:
        grid: ``[N]``, monotone; the host times of the solve are its values.
    """

    grid: Tensor
    _rising: list[float] = attrs.field(init=False, repr=False)

    @_rising.default
    def _(self) -> list[float]:
        points = self.grid.detach().tolist()
        return [point * self._sign for point in points]

    @property
    def _sign(self) -> float:
        first, last = self.grid[[0, -1]].detach().tolist()
        return math.copysign(1.0, last - first)

    def _at(self, t: Time) -> Tensor:
        """The point of the grid nearest to ``t``."""
        wanted = host(t) * self._sign
        after = bisect.bisect_left(self._rising, wanted)
        near = (k for k in (after - 1, after) if 0 <= k < len(self._rising))
        return self.grid[min(near, key=lambda k: abs(self._rising[k] - wanted))]

    def init(self, f: VectorField, t0: Time, y0: Tensor, f0: Tensor | None = None) -> Any:
        return self.solver.init(f, self._at(t0), y0, f0)

    def step(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Any) -> Step:
        return self.solver.step(f, self._at(t0), self._at(t1), y0, carry)

    def advance(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Any) -> Step:
        return self.solver.advance(f, self._at(t0), self._at(t1), y0, carry)
