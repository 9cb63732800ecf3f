"""Heun's third-order method."""

from __future__ import annotations

from collections.abc import Callable

import odekit
from odekit.core.runge_kutta import ButcherTableau, ExplicitRungeKutta


class Heun3(ExplicitRungeKutta):
    """Heun's third-order method. Heun 1900, *Neue Methoden zur approximativen Integration*.

    Adaptive against (k2 + k3)/2, the second-order method on the same stages that misses both conditions of order three
    by as much, 1/18.
    """

    name = "heun3"
    order = 3
    tableau = ButcherTableau(
        c=(0, 1 / 3, 2 / 3),
        a=((), (1 / 3,), (0, 2 / 3)),
        b=(1 / 4, 0, 3 / 4),
        b_error=(1 / 4, -1 / 2, 1 / 4),
    )


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(Heun3)
