"""The classical fourth-order method."""

from __future__ import annotations

from collections.abc import Callable

import odekit
from odekit.core.runge_kutta import ButcherTableau, ExplicitRungeKutta


class RK4(ExplicitRungeKutta):
    """The classical fourth-order method. Kutta 1901, *Beitrag zur näherungsweisen Integration*.

    Adaptive with a fifth stage at 3/4, after Zonneveld 1963 (Hairer, Nørsett & Wanner, *Solving ODEs I*, Table II.4.2):
    third-order methods on f(t1, y1) and the stages of the step itself would all be blind to y' = g(t).
    """

    name = "rk4"
    order = 4
    tableau = ButcherTableau(
        c=(0, 1 / 2, 1 / 2, 1, 3 / 4),
        a=((), (1 / 2,), (0, 1 / 2), (0, 0, 1), (5 / 32, 7 / 32, 13 / 32, -1 / 32)),
        b=(1 / 6, 1 / 3, 1 / 3, 1 / 6, 0),
        b_error=(2 / 3, -2, -2, -2, 16 / 3),
    )


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(RK4)
