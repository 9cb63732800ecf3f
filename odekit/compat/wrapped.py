"""Solvers around solvers: what torchdiffeq's fixed-step options change about a method."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

from odekit.core.protocols import ODESolver, Step, VectorField
from odekit.core.times import Time, coefficient
from odekit.core.tolerance import Tolerance


@attrs.frozen(eq=False)
class Wrapped(ODESolver):
    """A solver that does everything as ``inner`` does."""

    inner: ODESolver

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.inner.name

    @property
    def order(self) -> int:  # type: ignore[override]
        return self.inner.order

    @property
    def error_order(self) -> int | None:  # type: ignore[override]
        return self.inner.error_order

    @property
    def implicit(self) -> bool:  # type: ignore[override]
        return self.inner.implicit

    @property
    def memoryless(self) -> bool:  # type: ignore[override]
        return self.inner.memoryless

    def prepared(self, tolerance: Tolerance) -> ODESolver:
        return attrs.evolve(self, inner=self.inner.prepared(tolerance))

    def init(self, f: VectorField, t0: Time, y0: Tensor, f0: Tensor | None = None) -> Any:
        return self.inner.init(f, t0, y0, f0)

    def step(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Any) -> Step:
        return self.inner.step(f, t0, t1, y0, carry)

    def replay(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Any) -> Tensor:
        return self.inner.replay(f, t0, t1, y0, carry)

    def densify(self, f: VectorField, step: Step) -> Step:
        return self.inner.densify(f, step)

    def interpolate(self, step: Step, theta: Time) -> Tensor:
        return self.inner.interpolate(step, theta)


@attrs.frozen(eq=False)
class Linear(Wrapped):
    """States inside a step lie on the straight line between its ends."""

    def densify(self, f: VectorField, step: Step) -> Step:
        return step

    def interpolate(self, step: Step, theta: Time) -> Tensor:
        return torch.add(step.y0, coefficient(theta, step.y0) * (step.y1 - step.y0))
