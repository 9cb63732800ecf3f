"""The trapezoidal rule."""

from __future__ import annotations

from collections.abc import Callable

import odekit
from odekit.core.implicit_runge_kutta import DiagonallyImplicitRungeKutta
from odekit.core.runge_kutta import ButcherTableau


class Trapezoid(DiagonallyImplicitRungeKutta):
    """The trapezoidal rule, A-stable. Hairer & Wanner, *Solving ODEs II*, IV.3; Crank & Nicolson 1947.

    Adapts its steps by comparing with the implicit Euler method, and so is careful rather than fast.
    """

    name = "trapezoid"
    order = 2
    tableau = ButcherTableau(c=(0, 1), a=((), (1 / 2, 1 / 2)), b=(1 / 2, 1 / 2), b_error=(1 / 2, -1 / 2))


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(Trapezoid)
