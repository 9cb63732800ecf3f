"""The implicit Euler method."""

from __future__ import annotations

from collections.abc import Callable

import odekit
from odekit.core.implicit_runge_kutta import DiagonallyImplicitRungeKutta
from odekit.core.runge_kutta import ButcherTableau


class ImplicitEuler(DiagonallyImplicitRungeKutta):
    """The backward Euler method, L-stable. Hairer & Wanner, *Solving ODEs II*, IV.3.

    Adapts its steps by comparing with the trapezoidal rule, for which the slope at the start is known from the step
    before.
    """

    name = "implicit_euler"
    order = 1
    tableau = ButcherTableau(c=(0, 1), a=((), (0, 1)), b=(0, 1), b_error=(-1 / 2, 1 / 2), b_dense=((0,), (1,)))


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(ImplicitEuler)
