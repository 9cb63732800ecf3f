"""The two-stage Gauss method."""

from __future__ import annotations

import math
from collections.abc import Callable

import odekit
from odekit.core.fully_implicit import FullyImplicitRungeKutta
from odekit.core.runge_kutta import ButcherTableau

_R = math.sqrt(3) / 6


class Gauss4(FullyImplicitRungeKutta):
    """Gauss-Legendre of order four: A-stable, symmetric and symplectic.

    Hammer & Hollingsworth 1955; Hairer & Wanner, *Solving ODEs II*, Table IV.5.1.
    """

    name = "gauss4"
    order = 4
    tableau = ButcherTableau(c=(1 / 2 - _R, 1 / 2 + _R), a=((1 / 4, 1 / 4 - _R), (1 / 4 + _R, 1 / 4)), b=(1 / 2, 1 / 2))


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(Gauss4)
