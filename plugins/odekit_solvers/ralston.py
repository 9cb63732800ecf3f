"""Ralston's second-order method."""

from __future__ import annotations

from collections.abc import Callable

import odekit
from odekit.core.runge_kutta import ButcherTableau, ExplicitRungeKutta


class Ralston(ExplicitRungeKutta):
    """Ralston's second-order method, of least error bound; adaptive against Euler's method.

    Ralston 1962, *Runge-Kutta methods with minimum error bounds*.
    """

    name = "ralston"
    order = 2
    tableau = ButcherTableau(c=(0, 2 / 3), a=((), (2 / 3,)), b=(1 / 4, 3 / 4), b_error=(-3 / 4, 3 / 4))


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(Ralston)
