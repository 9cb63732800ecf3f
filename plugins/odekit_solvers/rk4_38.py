"""Kutta's 3/8 rule."""

from __future__ import annotations

from collections.abc import Callable

import odekit
from odekit.core.runge_kutta import ButcherTableau, ExplicitRungeKutta


class RK4ThreeEighths(ExplicitRungeKutta):
    """Kutta's 3/8 rule, of order four; what torchdiffeq calls rk4. Kutta 1901.

    Adaptive against the third-order method of Hairer, Nørsett & Wanner, *Solving ODEs I*, II.4, which uses the next
    step's first stage.
    """

    name = "rk4-38"
    order = 4
    tableau = ButcherTableau(
        c=(0, 1 / 3, 2 / 3, 1, 1),
        a=((), (1 / 3,), (-1 / 3, 1), (1, -1, 1), (1 / 8, 3 / 8, 3 / 8, 1 / 8)),
        b=(1 / 8, 3 / 8, 3 / 8, 1 / 8, 0),
        b_error=(1 / 24, -1 / 8, 1 / 8, 1 / 8, -1 / 6),
    )


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(RK4ThreeEighths)
