"""Newton's method for the stages of implicit steps: batched, on a Jacobian that is reused while it serves."""

from __future__ import annotations

import math
from typing import Any

import attrs
from torch import Tensor

from odekit.core.jacobian import Factored
from odekit.core.protocols import VectorField
from odekit.core.times import Time, coefficient, host
from odekit.core.tolerance import Tolerance
from odekit.errors import InputError


@attrs.frozen(eq=False)
class Solved:
    """The end of an iteration: the stage value, whether it converged, and the factors that it ended with."""

    y: Tensor
    converged: bool
    factors: Factored


def _at_least_one(instance: Any, attribute: Any, value: int) -> None:
    if value < 1:
        raise InputError(f"{attribute.name}={value!r}: expected an integer >= 1")


def _fraction(instance: Any, attribute: Any, value: float) -> None:
    if not 0 < value < 1:
        raise InputError(f"{attribute.name}={value!r}: expected a number between 0 and 1")


@attrs.frozen(eq=False)
class Newton:
    """Solves y = base + h f(t, y).

    Simplified Newton: the Jacobian of the step's start serves until the contraction is slow, then every iterate gets
    its own. It has converged where the error that is left, estimated from the contraction rate, is below ``fraction``
    of the solve's tolerance. Hairer & Wanner, *Solving ODEs II*, IV.8.

    Attributes:
        max_iterations: after these it counts as diverged.
        fraction: of the tolerance of the solve.
        tolerance: of the solve; filled in by it.
    """

    max_iterations: int = attrs.field(default=15, validator=_at_least_one)
    fraction: float = attrs.field(default=0.01, validator=_fraction)
    tolerance: Tolerance = attrs.field(factory=lambda: Tolerance(1e-6, 1e-8))

    def solve(
        self, f: VectorField, t: Tensor, base: Tensor, h: float, guess: Tensor, factors: Factored, rows: bool
    ) -> Solved:
        """Iterate from ``guess``, all without gradients."""
        y, previous, fresh = guess, math.inf, False
        for iteration in range(self.max_iterations):
            update = factors.solve(base + h * f(t, y) - y)
            y = y + update
            size = float(self.tolerance.norm(update / self.tolerance.scale(y)))
            if not math.isfinite(size):
                return Solved(y, False, factors)
            rate = size / previous if iteration else math.inf
            left = size * rate / (1 - rate) if rate < 1 else size
            if left <= self.fraction or size <= 1e-3 * self.fraction or (size <= 1 and rate >= 0.5 and fresh):
                return Solved(y, True, factors)
            if iteration and rate > 0.2:
                factors, fresh = f.linearised(t, y, rows).factored(h), True
            previous = size
        return Solved(y, False, factors)


def implicit_gradient(f: VectorField, t: Tensor, base: Tensor, h: Time, y: Tensor, rows: bool) -> Tensor:
    """The solution ``y`` of y = base + h f(t, y), connected to what it depends on.

    Implicit function theorem: dy = (I - h ∂f/∂y)⁻¹ d(base + h f)|_y, the Jacobian being taken at the solution. The
    value of ``y`` stays as it is.
    """
    right = base + coefficient(h, y) * f(t, y)
    if not right.requires_grad:
        return y
    factors = f.linearised(t, y.detach(), rows).factored(host(h))
    return y + factors.solve(right - right.detach())
