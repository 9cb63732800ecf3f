"""Backward differentiation of variable order, for stiff problems over long times."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import attrs
import numpy as np
import torch
from torch import Tensor

import odekit
from odekit.core import lanes
from odekit.core.differences import advanced, evaluated, respaced, sampled, weighted_sum
from odekit.core.implicit_runge_kutta import Stage, verdicts
from odekit.core.linear import Auto, Linear, resolve_linear
from odekit.core.nonlinear import Newton, implicit_gradient
from odekit.core.protocols import ODESolver, Step, VectorField
from odekit.core.reuse import Kept, Linearisation
from odekit.core.solution import Status
from odekit.core.times import Time, coefficient, host
from odekit.core.tolerance import Tolerance
from odekit.errors import InputError
from odekit_solvers.rodas5p import Rodas5P

_HIGHEST = 5
_KAPPA = np.array([0, -0.1850, -1 / 9, -0.0823, -0.0415, 0])
_GAMMA = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, _HIGHEST + 1))])
_ALPHA = (1 - _KAPPA) * _GAMMA
_ERROR = _KAPPA * _GAMMA + 1 / np.arange(1, _HIGHEST + 2)
"""By order: κ of the NDFs, γ_k = Σ 1/j, the factor of y_{n+1}, and the constant of the local error."""

_SAFETY, _SHRINK, _GROW = 0.85, 0.2, 10.0
_SAME = 1e-10
_CONTRACTION = 0.03
"""Predictions are so good that one step's contraction says little of the next one's; it is not believed below this."""


class Past(NamedTuple):
    """What a step hands to the next.

    Attributes:
        differences: ∇y, ∇²y, ... at its end, ``[max_order + 2, *state]``; None before the first step.
        size: the spacing of their grid, signed.
        order: of the next step.
        even: how many steps in a row have had this size and order.
        linear: how linear systems are solved.
        kept: the Jacobian and what is known of it.
        start: what the starting method begins with.
    """

    differences: Tensor | None
    size: float
    order: int
    even: int
    linear: Linear
    kept: Kept
    start: Any


class Passed(NamedTuple):
    """A step's dense output: differences at its end and how many of them count, or the starting method's own step."""

    differences: Tensor | None
    order: int
    start: Step | None


def _an_order(instance: Any, attribute: Any, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _HIGHEST:
        raise InputError(f"max_order={value!r}: expected a whole number from 1 to {_HIGHEST}")


def _newton() -> Newton:
    return Newton(max_iterations=6, fraction=0.01, slow=0.4, reuse=0.3)


@attrs.frozen(eq=False)
class BDF(ODESolver):
    """Numerical differentiation formulas (NDF) of orders one to five on a quasi-constant grid, with their own choice
    of order and step size.

    A step of order k solves (1 - κ_k) γ_k (y_{n+1} - p) + Σ_{j≤k} γ_j ∇^j p = h f(t_{n+1}, y_{n+1}), with p the
    prediction from the last k + 1 points, one equation whatever the order; its local error follows from ∇^{k+1} y.
    Where the step size changes the points move along their polynomial. After k + 1 equal steps the order among k - 1,
    k and k + 1 that allows the longest next step is taken. Shampine & Reichelt 1997, *The MATLAB ODE suite*, section 2;
    the formulas with κ = 0 are the BDF, Byrne & Hindmarsh 1975, *A polyalgorithm for the numerical solution of ODEs*.

    The first step is one of ``starter``, whose dense output stands for the points before it; so is a step more than
    ten times as long as the last one. The order therefore begins at ``max_order``, and with fixed steps it stays there.
    Orders above two are A(α)-stable only.

    Attributes:
        max_order: the highest order in use.
        newton: the settings of the iteration.
        linear: how linear systems are solved, as in
            :class:`~odekit.core.implicit_runge_kutta.ImplicitRungeKutta`. ``"gmres"`` needs a ``starter`` that can do
            without a matrix too, such as ``Kvaerno3(linear="gmres")``.
        starter: a one-step method with dense output.
    """

    max_order: int = attrs.field(default=_HIGHEST, validator=_an_order)
    newton: Newton = attrs.field(factory=_newton)
    linear: Linear = attrs.field(factory=Auto, converter=resolve_linear)
    starter: ODESolver = attrs.field(factory=Rodas5P)

    name = "bdf"
    order = _HIGHEST
    error_order = Rodas5P.error_order
    implicit = True

    def prepared(self, tolerance: Tolerance) -> ODESolver:
        newton = attrs.evolve(self.newton, tolerance=tolerance)
        linear = self.linear.prepared(newton.residual_allowed)
        return attrs.evolve(self, newton=newton, linear=linear, starter=self.starter.prepared(tolerance))

    def differentiable(self, times: int) -> ODESolver:
        starter = self.starter.differentiable(times)
        return attrs.evolve(self, newton=self.newton.differentiable(times), starter=starter)

    def init(self, f: VectorField, t0: Time, y0: Tensor, f0: Tensor | None = None) -> Past:
        linear = self.linear.settled(lambda: f.rows_are_independent(t0, y0.detach()))
        start = self.starter.init(f, t0, y0, f0)
        return Past(None, 0.0, self.max_order, 0, linear, Kept.begun(f, linear, t0, y0), start)

    def step(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Past) -> Step:
        size: float = host(t1 - t0)
        if carry.differences is None or size > _GROW * carry.size > 0 or size < _GROW * carry.size < 0:
            return self._start(f, t0, t1, y0, carry)
        factor, past = size / carry.size, carry.differences
        even = carry.even
        if abs(factor - 1) > _SAME:
            past, even = respaced(past, carry.order, factor), 0
        return self._go_on(f, t0, t1, y0, carry, past, even)

    def advance(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Past) -> Step:
        """A step whose size is given: the order stays at ``max_order``."""
        taken = self.step(f, t0, t1, y0, carry)
        return attrs.evolve(taken, carry=taken.carry._replace(order=self.max_order)) if taken.status.ok else taken

    def _start(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Past) -> Step:
        """A step of the starting method; its dense output, taken backwards, is the past of the next step."""
        begun = self.starter.step(f, t0, t1, y0, carry.start)
        if not begun.status.ok:
            return attrs.evolve(begun, carry=carry, retry=None)
        begun = self.starter.densify(f, begun)
        known = min(self.starter.order - 1, self.max_order + 2)
        differences = sampled(lambda theta: self.starter.interpolate(begun, theta), known, self.max_order + 2)
        order = min(known - 1, self.max_order)
        with torch.no_grad():
            ahead = self._sizes(begun.y0, begun.y1, _ERROR[order] * differences[order])
        handed = carry._replace(
            differences=differences, size=host(t1 - t0), order=self.max_order, even=0, start=begun.carry
        )
        return attrs.evolve(
            begun, carry=handed, dense=Passed(None, 0, begun), growth=_factor(ahead[0], order), retry=None
        )

    def _go_on(
        self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Past, differences: Tensor, even: int
    ) -> Step:
        order = carry.order
        h = (t1 - t0) / float(_ALPHA[order])
        (time,) = f.times([t1])
        predicted = y0 + differences[:order].sum(0)
        base = predicted - weighted_sum(_GAMMA[1 : order + 1] / _ALPHA[order], differences)
        with torch.no_grad():
            matrix = Linearisation(f, carry.linear, carry.kept, t0, y0, h, (1.0,))
            equation = Stage(f, time, base, coefficient(h, y0), matrix, 0, self.newton)
            solved = self.newton.solve(equation, predicted, carry.kept.contraction, [Status.SUCCESS])
        again = matrix.to_retry()
        retry = None if again is None else carry._replace(kept=again)
        said = verdicts(solved.statuses, False)
        y1 = solved.y
        if not said["status"].ok:
            return Step(t0, t1, y0, y1, carry=carry, retry=retry, **said)
        if torch.is_grad_enabled() or lanes.differentiated(y1):
            y1 = implicit_gradient(f, time, base, h, y1, carry.linear, self.newton.derivatives)
        last = y1 - predicted
        passed = advanced(differences, order, last)
        error = float(_ERROR[order]) * last
        kept = matrix.to_keep(np.maximum(solved.contraction, _CONTRACTION), solved.serves | matrix.renewed)
        with torch.no_grad():
            chosen, growth = self._chosen(y0, y1, passed, order, even + 1)
        handed = carry._replace(
            differences=passed,
            size=host(t1 - t0),
            order=chosen,
            even=even + 1 if chosen == order else 0,
            kept=kept,
        )
        return Step(
            t0, t1, y0, y1, error, carry=handed, dense=Passed(passed, order, None), growth=growth, retry=retry, **said
        )

    def _chosen(self, y0: Tensor, y1: Tensor, passed: Tensor, order: int, even: int) -> tuple[int, float]:
        """The order of the next step, and by how much it should be longer."""
        candidates = [order]
        if even > order:
            candidates = [k for k in (order, order - 1, order + 1) if 1 <= k <= self.max_order]
        sizes = self._sizes(y0, y1, *(float(_ERROR[k]) * passed[k] for k in candidates))
        factors = [_factor(size, k) for size, k in zip(sizes, candidates, strict=True)]
        if sizes[0] > 1:
            return order, factors[0]
        if even <= order:
            return order, 1.0
        best = int(np.argmax(factors))
        return candidates[best], factors[best]

    def _sizes(self, y0: Tensor, y1: Tensor, *errors: Tensor) -> list[float]:
        ratio = self.newton.tolerance.ratio
        found: list[float] = lanes.worst(torch.stack([ratio(error, y0, y1) for error in errors]))
        return found

    def densify(self, f: VectorField, step: Step) -> Step:
        return step

    def interpolate(self, step: Step, theta: Time) -> Tensor:
        passed: Passed = step.dense
        if passed.start is not None:
            return self.starter.interpolate(passed.start, theta)
        assert passed.differences is not None
        return evaluated(step.y1, passed.differences, passed.order, theta)


def _factor(size: float, order: int) -> float:
    """By how much a step may grow whose error of this order has this size."""
    if not math.isfinite(size):
        return _SHRINK
    return float(min(max(_SAFETY * max(size, 1e-30) ** (-1 / (order + 1)), _SHRINK), _GROW))


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(BDF)
