"""Fehlberg's 1(2) pair."""

from __future__ import annotations

from collections.abc import Callable

import odekit
from odekit.core.runge_kutta import ButcherTableau, ExplicitRungeKutta


class Fehlberg2(ExplicitRungeKutta):
    """Fehlberg's RK1(2) pair, continued with the second-order answer as in torchdiffeq.

    Fehlberg 1969, *Low-order classical Runge-Kutta formulas with stepsize control*, NASA TR R-315.
    """

    name = "fehlberg2"
    order = 2
    tableau = ButcherTableau(
        c=(0, 1 / 2, 1),
        a=((), (1 / 2,), (1 / 256, 255 / 256)),
        b=(1 / 512, 255 / 256, 1 / 512),
        b_error=(-1 / 512, 0, 1 / 512),
    )


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(Fehlberg2)
