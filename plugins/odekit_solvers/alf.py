"""The asynchronous leapfrog method: second order at one call of f a step, and reversible."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

import odekit
from odekit.core.protocols import Step, VectorField
from odekit.core.reversible import ReversibleSolver
from odekit.core.runge_kutta import combine, stage_times
from odekit.core.times import Time, coefficient


class AsynchronousLeapfrog(ReversibleSolver):
    """Leapfrog on the state and a slope v that goes along with it, v(t0) = f(t0, y0).

    y½ = y0 + dt/2 v0, v1 = 2 f(t0 + dt/2, y½) - v0, y1 = y½ + dt/2 v1. The error is the distance to Euler's step with
    v0. Mutze 2013, *An asynchronous leap-frog method*; Zhuang et al. 2021, *MALI: a memory efficient and reverse
    accurate integrator*, Algorithms 2 and 3. The slope is not damped: on problems that decay fast it oscillates.
    """

    name = "alf"
    order = 2
    error_order = 1
    dense_order = 2
    rowwise = True

    def init(self, f: VectorField, t0: Time, y0: Tensor, f0: Tensor | None = None) -> Tensor:
        return f(t0, y0) if f0 is None else f0

    def step(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Tensor) -> Step:
        dt, v0 = t1 - t0, carry
        (middle,) = stage_times(f, (0.5,), t0, t1)
        slope = f(middle, combine(y0, dt, (0.5,), (v0,)))
        v1 = 2 * slope - v0
        y1 = combine(y0, dt, (1.0,), (slope,))
        return Step(t0, t1, y0, y1, coefficient(dt, y0) * (slope - v0), v1, (v0, v1))

    def reverse(self, f: VectorField, t0: Time, t1: Time, y1: Tensor, carry: Tensor) -> tuple[Tensor, Tensor]:
        dt, v1 = t1 - t0, carry
        (middle,) = stage_times(f, (0.5,), t0, t1)
        slope = f(middle, combine(y1, dt, (-0.5,), (v1,)))
        return combine(y1, dt, (-1.0,), (slope,)), 2 * slope - v1

    def densify(self, f: VectorField, step: Step) -> Step:
        return step


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(AsynchronousLeapfrog)
