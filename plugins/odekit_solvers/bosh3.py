"""The Bogacki-Shampine 3(2) pair."""

from __future__ import annotations

from collections.abc import Callable

import odekit
from odekit.core.runge_kutta import ButcherTableau, ExplicitRungeKutta


class Bosh3(ExplicitRungeKutta):
    """Bogacki-Shampine 3(2) pair, FSAL. Bogacki & Shampine 1989, *A 3(2) pair of RK formulas*."""

    name = "bosh3"
    order = 3
    tableau = ButcherTableau(
        c=(0, 1 / 2, 3 / 4, 1),
        a=((), (1 / 2,), (0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
        b=(2 / 9, 1 / 3, 4 / 9, 0),
        b_error=(2 / 9 - 7 / 24, 1 / 3 - 1 / 4, 4 / 9 - 1 / 3, -1 / 8),
    )


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(Bosh3)
