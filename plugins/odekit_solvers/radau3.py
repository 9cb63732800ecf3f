"""The two-stage Radau IIA method."""

from __future__ import annotations

from collections.abc import Callable

import odekit
from odekit.core.fully_implicit import FullyImplicitRungeKutta
from odekit.core.runge_kutta import ButcherTableau


class Radau3(FullyImplicitRungeKutta):
    """Radau IIA of order three, L-stable. Ehle 1969; Hairer & Wanner, *Solving ODEs II*, Table IV.5.5."""

    name = "radau3"
    order = 3
    tableau = ButcherTableau(c=(1 / 3, 1), a=((5 / 12, -1 / 12), (3 / 4, 1 / 4)), b=(3 / 4, 1 / 4))


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(Radau3)
