"""Newton's method for the stages of implicit steps: batched, on a Jacobian that is reused while it serves."""

from __future__ import annotations

import math
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from odekit.core.first_only import first_only
from odekit.core.jacobian import Factored
from odekit.core.protocols import VectorField
from odekit.core.solution import Status
from odekit.core.times import Time, coefficient, host
from odekit.core.tolerance import Tolerance
from odekit.errors import InputError


@attrs.frozen(eq=False)
class Solved:
    """The end of an iteration: the stage value, whether it is one, and the factors that it ended with."""

    y: Tensor
    status: Status
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

    Simplified Newton: the Jacobian of the step's start serves until the contraction is slow, or too slow for the
    iterations that remain; then the iterate gets its own. It has converged where the error that is left, estimated from
    the contraction rate, is below ``fraction`` of the solve's tolerance. Hairer & Wanner, *Solving ODEs II*, IV.8.

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
        """Iterate from ``guess``, without gradients. Where f is not finite even there, the status says NON_FINITE."""
        y, previous, fresh = guess, math.inf, False
        for iteration in range(self.max_iterations):
            slope = f(t, y)
            update = factors.solve(base + h * slope - y)
            y = y + update
            size = float(self.tolerance.norm(update / self.tolerance.scale(y)))
            if not math.isfinite(size):
                at_fault = iteration == 0 and not bool(slope.isfinite().all())
                return Solved(y, Status.NON_FINITE if at_fault else Status.NEWTON_DIVERGED, factors)
            rate = size / previous if iteration else math.inf
            left = size * rate / (1 - rate) if rate < 1 and factors.whole else size
            if left <= self.fraction or size <= 1e-3 * self.fraction or (size <= 1 and rate >= 0.5 and fresh):
                return Solved(y, Status.SUCCESS, factors)
            remaining = self.max_iterations - iteration - 1
            if iteration and (rate > 0.2 or size * rate**remaining > self.fraction):
                factors, fresh = f.linearised(t, y, rows).factored(h), True
            previous = size
        return Solved(y, Status.NEWTON_DIVERGED, factors)


_SECOND = (
    "the derivative of an implicit step cannot be differentiated again; second derivatives need an explicit solver, "
    "such as 'dopri5', with gradient='direct'"
)


def implicit_gradient(f: VectorField, t: Tensor, base: Tensor, h: Time, y: Tensor, rows: bool) -> Tensor:
    """The solution ``y`` of y = base + h f(t, y), connected to what it depends on, in reverse and in forward mode.

    Implicit function theorem: dy = (I - h ∂f/∂y)⁻¹ d(base + h f)|_y, the Jacobian being taken at the solution. The
    value of ``y`` stays as it is. There is no second derivative: asking for it raises GradientError.
    """
    y = y.detach()
    right = base + coefficient(h, y) * f(t, _Held.apply(y, base))
    if not is_differentiated(right):
        return y
    factors = f.linearised(t, y, rows).factored(host(h))
    right = first_only(right, _SECOND)
    return y + factors.solve(right - right.detach())


def is_differentiated(x: Tensor) -> bool:
    """Whether derivatives flow through ``x``, in reverse or in forward mode."""
    return x.requires_grad or unpack_dual(x).tangent is not None


class _Held(torch.autograd.Function):
    """``y`` as a part of the graph that ``base`` is in, yet with no derivative.

    An f that differentiates inside itself finds a y that requires grad, and makes no leaf of its own.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, base: Tensor) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None]:
        return None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        return next(torch.zeros_like(tangent) for tangent in tangents if tangent is not None)
