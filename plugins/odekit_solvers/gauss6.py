"""The three-stage Gauss method."""

from __future__ import annotations

import math
from collections.abc import Callable

import odekit
from odekit.core.fully_implicit import FullyImplicitRungeKutta
from odekit.core.runge_kutta import ButcherTableau

_R = math.sqrt(15)


class Gauss6(FullyImplicitRungeKutta):
    """Gauss-Legendre of order six: A-stable, symmetric and symplectic.

    Kuntzmann 1961; Butcher 1964; Hairer & Wanner, *Solving ODEs II*, Table IV.5.2.
    """

    name = "gauss6"
    order = 6
    tableau = ButcherTableau(
        c=(1 / 2 - _R / 10, 1 / 2, 1 / 2 + _R / 10),
        a=(
            (5 / 36, 2 / 9 - _R / 15, 5 / 36 - _R / 30),
            (5 / 36 + _R / 24, 2 / 9, 5 / 36 - _R / 24),
            (5 / 36 + _R / 30, 2 / 9 + _R / 15, 5 / 36),
        ),
        b=(5 / 18, 4 / 9, 5 / 18),
    )


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(Gauss6)
