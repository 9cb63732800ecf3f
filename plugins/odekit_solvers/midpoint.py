"""The explicit midpoint rule."""

from __future__ import annotations

from collections.abc import Callable

import odekit
from odekit.core.runge_kutta import ButcherTableau, ExplicitRungeKutta


class Midpoint(ExplicitRungeKutta):
    """The explicit midpoint rule; adaptive against Euler's method. Runge 1895, *Über die numerische Auflösung*."""

    name = "midpoint"
    order = 2
    tableau = ButcherTableau(c=(0, 1 / 2), a=((), (1 / 2,)), b=(0, 1), b_error=(-1, 1))


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(Midpoint)
