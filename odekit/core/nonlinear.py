"""Newton's method for the stages of implicit steps: by row where rows have steps of their own, and its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import attrs
import numpy as np
import torch
from torch import Tensor

from odekit.core import lanes
from odekit.core.first_only import only
from odekit.core.jacobian import Factored
from odekit.core.linear import Linear
from odekit.core.protocols import VectorField
from odekit.core.solution import Status
from odekit.core.times import Time, coefficient, host
from odekit.core.tolerance import Tolerance
from odekit.errors import InputError


class Equations(Protocol):
    """What is solved, for R systems at once that do not know of each other: one, or one a row of the state."""

    @property
    def whole(self) -> bool:
        """Whether corrections come from all of the Jacobian; their contraction then tells how far the solution is."""
        ...

    def residual(self, y: Tensor) -> Tensor:
        """By how much ``y`` misses, signed so that a correction is to be added."""
        ...

    def correction(self, residual: Tensor) -> Tensor:
        """The residual, multiplied by the inverse of the Jacobian in use."""
        ...

    def size(self, update: Tensor, y: Tensor) -> Tensor:
        """The update in units of the tolerance: 0-d, or ``[R]``."""
        ...

    def renew(self, y: Tensor, wanted: np.ndarray) -> np.ndarray:
        """Take a better Jacobian for the systems ``wanted [R]``, which are at ``y``; tell which of them got one."""
        ...

    def pick(self, which: np.ndarray, a: Tensor, b: Tensor) -> Tensor:
        """``a`` in the systems ``which [R]``, ``b`` in the others."""
        ...

    def finite(self, x: Tensor) -> np.ndarray:
        """In which systems ``x`` is finite, ``[R]``."""
        ...


@attrs.frozen(eq=False)
class Solved:
    """The end of an iteration.

    Attributes:
        y: the solutions.
        statuses: whether they are, one a system.
        contraction: θ/(1 - θ) with θ the contraction seen last, ``[R]``; infinite where none was.
        serves: in which systems the Jacobian is good enough to be used again, ``[R]``.
    """

    y: Tensor
    statuses: list[Status]
    contraction: np.ndarray
    serves: np.ndarray


def _at_least_one(instance: Any, attribute: Any, value: int) -> None:
    if value < 1:
        raise InputError(f"{attribute.name}={value!r}: expected an integer >= 1")


def _fraction(instance: Any, attribute: Any, value: float) -> None:
    if not 0 < value < 1:
        raise InputError(f"{attribute.name}={value!r}: expected a number between 0 and 1")


@attrs.frozen(eq=False)
class Newton:
    """Simplified Newton iteration.

    A Jacobian serves, over many steps if it can, until the contraction is slow, or too slow for the iterations that
    remain; then there is a new one. The iteration has converged where the error that is left, estimated from the
    contraction, is below ``fraction`` of the solve's tolerance; before there is a contraction to be seen, that of the
    iteration before stands in for it. Every row with a step of its own is iterated, and stopped, by itself. Hairer &
    Wanner, *Solving ODEs II*, IV.8.

    Attributes:
        max_iterations: after these it counts as diverged.
        fraction: of the tolerance of the solve. What iterations leave adds up over the steps, of which there are many
            where the tolerance is tight.
        slow: a contraction above this asks for a new Jacobian at once.
        derivatives: how often what comes out can be differentiated. Each after the first costs another call of f and
            another linear solution behind the iteration. Methods with a backward pass of their own take 2 by themselves
            where second derivatives are asked for.
        reuse: one above this, in more than two iterations, asks for a new Jacobian in the next step.
        tolerance: of the solve; filled in by it.
    """

    max_iterations: int = attrs.field(default=15, validator=_at_least_one)
    fraction: float = attrs.field(default=1e-3, validator=_fraction)
    slow: float = attrs.field(default=0.2, validator=_fraction)
    reuse: float = attrs.field(default=1e-3, validator=_fraction)
    derivatives: int = attrs.field(default=1, validator=_at_least_one)
    tolerance: Tolerance = attrs.field(factory=lambda: Tolerance(1e-6, 1e-8))

    def differentiable(self, times: int) -> Newton:
        """These settings with no fewer ``derivatives`` than that."""
        return attrs.evolve(self, derivatives=max(times, self.derivatives))

    @property
    def residual_allowed(self) -> Tolerance:
        """What an iterative solution of a linear system may leave: a twentieth of what the iteration may."""
        share = 0.05 * self.fraction
        return Tolerance(share * self.tolerance.rtol, share * self.tolerance.atol, self.tolerance.norm)

    def unit(self, y: Tensor) -> Tensor:
        """What counts as one unit of an update's size at the state ``y``: never so little that rounding is in the way.

        Hairer & Wanner, *Solving ODEs II*, IV.8, allow the iteration ten rounding units at least.
        """
        rounding = 10 * torch.finfo(y.dtype).eps / self.fraction
        return torch.maximum(self.tolerance.scale(y), rounding * y.abs())

    def solve(self, system: Equations, guess: Tensor, contraction: np.ndarray, statuses: list[Status]) -> Solved:
        """Iterate from ``guess``, without gradients, the systems whose status is SUCCESS so far.

        Where f is not finite even at the guess, the status says NON_FINITE. ``contraction`` is that of an earlier
        iteration, as in :class:`Solved`.
        """
        y, statuses, count = guess, list(statuses), len(statuses)
        eta = np.maximum(contraction, self.reuse) ** 0.8  # an old contraction, or one of rounding, promises no more
        moving = np.array([status.ok for status in statuses])
        previous, served = np.full(count, math.inf), np.ones(count, dtype=bool)
        renewed = np.zeros(count, dtype=bool)
        for iteration in range(self.max_iterations):
            residual = system.residual(y)
            update = system.correction(residual)
            trial = y + update
            sizes = np.atleast_1d(np.asarray(lanes.worst(system.size(update, trial))))
            seen = moving & (previous < math.inf)
            with np.errstate(all="ignore"):
                rate = sizes / previous
                eta = np.where(seen, np.where(rate < 1, np.maximum(rate / (1 - rate), 1e-16), math.inf), eta)
                left = sizes * eta if system.whole else sizes
                ahead = sizes * rate ** (self.max_iterations - iteration - 1) / (1 - rate)
            stalled = renewed & seen & (sizes <= 1) & (rate >= 0.5)
            done = moving & ((left <= self.fraction) | (sizes <= 1e-3 * self.fraction) | stalled)
            if iteration > 1:
                served &= ~done | (rate <= self.reuse)
            going = moving & ~done
            if not going.any():
                y = trial if moving.all() else system.pick(moving, trial, y)
                return Solved(y, statuses, eta, served)
            hopeless = going & ~(np.isfinite(sizes) & (~seen | ((rate < 1) & (ahead <= self.fraction))))
            slow = hopeless | (going & seen & (rate > self.slow))
            back = np.zeros(count, dtype=bool)
            if slow.any():
                sound = np.isfinite(sizes)
                if iteration == 0:
                    sound = system.finite(residual)
                worse = slow & ~((rate < 1) & sound & seen)
                fresh = np.zeros(count, dtype=bool)
                if (slow & sound).any():
                    fresh = system.renew(system.pick(worse, y, trial), slow & sound)
                refused = hopeless & ~fresh
                resting = (
                    refused & seen & (sizes <= 1) & (rate >= 0.5)
                )  # moved by rounding alone, under the best matrix
                done, lost = done | resting, refused & ~resting
                if resting.any() and not (moving & ~done & ~lost).any() and not lost.any():
                    return Solved(system.pick(moving, trial, y), statuses, eta, served)
                if lost.any():
                    for k in np.flatnonzero(lost):
                        at_fault = iteration == 0 and not sound[k]
                        statuses[k] = Status.NON_FINITE if at_fault else Status.NEWTON_DIVERGED
                    moving = moving & ~lost
                    if not (moving & ~done).any():
                        return Solved(trial, statuses, eta, served)
                back, renewed = worse & fresh, renewed | fresh
                previous = np.where(fresh, math.inf, sizes)
                eta = np.where(fresh, math.inf, eta)
            else:
                previous = sizes
            onward = moving & ~back
            y = trial if onward.all() else system.pick(onward, trial, y)
            moving = moving & ~done
        return Solved(y, [Status.NEWTON_DIVERGED if moving[k] else statuses[k] for k in range(count)], eta, served)


def pick(which: np.ndarray, a: Tensor, b: Tensor, axis: int) -> Tensor:
    """``a`` where ``which`` says so and ``b`` elsewhere, along ``axis``; all of one of them if there is one answer."""
    if len(which) == 1:
        return a if which[0] else b
    shape = [1] * a.ndim
    shape[axis] = -1
    return torch.where(torch.from_numpy(np.ascontiguousarray(which)).to(a.device).reshape(shape), a, b)


def finite(x: Tensor, count: int, axis: int) -> np.ndarray:
    """In which of ``count`` systems, which lie along ``axis`` if there are several, ``x`` is finite."""
    if count == 1:
        return np.array([lanes.everywhere(x.isfinite().all())])
    return np.asarray(lanes.everywhere(x.movedim(axis, 0).isfinite().unsqueeze(-1).flatten(1).all(1)))


_HIGHER = (
    "the derivative of an implicit step cannot be differentiated again: second derivatives take "
    "gradient='checkpointed', or 'direct' with a solver made with newton=Newton(derivatives=2)"
)


def implicit_gradient(
    f: VectorField, t: Tensor, base: Tensor, h: Time, y: Tensor, linear: Linear, derivatives: int
) -> Tensor:
    """The solution ``y`` of y = base + h f(t, y), connected to what it depends on, in reverse and in forward mode.

    It has so many ``derivatives``; asking for more raises GradientError. The value of ``y`` stays as it is.
    """

    def right(y: Tensor) -> Tensor:
        return base + coefficient(h, y) * f(t, y)

    y = y.detach()
    first = right(_Held.apply(y, base))
    if not lanes.differentiated(first):
        return y
    factors = f.linearised(t, y, linear.exact()).factored(host(h))
    return _connected(y, first, right, factors, derivatives)


def coupled_gradient(
    f: VectorField, times: list[Tensor], y0: Tensor, dt: Time, a: np.ndarray, ys: Tensor, linear: Linear,
    derivatives: int,
) -> Tensor:  # fmt: skip
    """The same for all stages at once: the solution ``ys [s, *state]`` of Y_i = y0 + dt Σ a_ij f(t_j, Y_j)."""
    h = coefficient(dt, y0)

    def right(ys: Sequence[Tensor]) -> Tensor:
        slopes = [f(t, y) for t, y in zip(times, ys, strict=True)]
        rows = [y0 + h * sum(weight * k for weight, k in zip(row, slopes, strict=True)) for row in a.tolist()]
        return torch.stack(rows)

    ys = ys.detach()
    first = right([_Held.apply(y, y0) for y in ys])
    if not lanes.differentiated(first):
        return ys
    exact = linear.exact()
    parts = [f.linearised(t, y, exact) for t, y in zip(times, ys, strict=True)]
    factors = exact.coupled(parts, np.multiply.outer(host(dt), a))
    return _connected(ys, first, lambda ys: right(ys.unbind()), factors, derivatives)


def _connected(
    y: Tensor, first: Tensor, right: Callable[[Tensor], Tensor], factors: Factored, derivatives: int
) -> Tensor:
    """The solution ``y`` of y = right(y), with so many derivatives, from ``first``, which is right(y) for a held y.

    Implicit function theorem: dy = (I - ∂right/∂y)⁻¹ d(right)|_y, where the Jacobian in ``factors`` is taken at the
    solution. A correction y + (I - J)⁻¹ (right(y) - y) with a constant J has that first derivative. Another one of the
    result makes the next derivative right as well: an error in the k-th derivative of y goes to that of the corrected y
    with the factor I - (I - J)⁻¹ (I - J) = 0.
    """
    first = only(derivatives, first, _HIGHER)
    y = y + factors.solve(first - first.detach())
    for _ in range(derivatives - 1):
        change = right(y) - y
        y = y + factors.solve(change - change.detach())
    return y


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
