"""The reversible Heun method: second order at one call of f a step, with an algebraic inverse."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

import odekit
from odekit.core.protocols import Step, VectorField
from odekit.core.reversible import ReversibleSolver
from odekit.core.runge_kutta import combine
from odekit.core.times import Time, coefficient


class ReversibleHeun(ReversibleSolver):
    """The trapezoidal rule through a companion x of the state, x(t0) = y0, at which f is taken.

    x1 = 2 y0 - x0 + dt f(t0, x0), y1 = y0 + dt/2 (f(t0, x0) + f(t1, x1)). The error is the distance to Euler's step.
    Kidger, Foster, Li & Lyons 2021, *Efficient and accurate gradients for neural SDEs*, Algorithms 1 and 2. Stable on
    no interval of the negative real axis, so its steps must be short where the solution decays fast.
    """

    name = "reversible_heun"
    order = 2
    error_order = 1
    dense_order = 2
    rowwise = True

    def init(self, f: VectorField, t0: Time, y0: Tensor, f0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return y0, f(t0, y0) if f0 is None else f0

    def step(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: tuple[Tensor, Tensor]) -> Step:
        dt, (x0, k0) = t1 - t0, carry
        x1 = combine(2 * y0 - x0, dt, (1.0,), (k0,))
        k1 = f(t1, x1)
        y1 = combine(y0, dt, (0.5, 0.5), (k0, k1))
        return Step(t0, t1, y0, y1, coefficient(0.5 * dt, y0) * (k1 - k0), (x1, k1), (k0, k1))

    def reverse(
        self, f: VectorField, t0: Time, t1: Time, y1: Tensor, carry: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        dt, (x1, k1) = t1 - t0, carry
        x0 = combine(2 * y1 - x1, dt, (-1.0,), (k1,))
        k0 = f(t0, x0)
        return combine(y1, dt, (-0.5, -0.5), (k0, k1)), (x0, k0)

    def densify(self, f: VectorField, step: Step) -> Step:
        return step


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(ReversibleHeun)
