"""The strong-stability-preserving method of Shu and Osher."""

from __future__ import annotations

from collections.abc import Callable

import odekit
from odekit.core.runge_kutta import ButcherTableau, ExplicitRungeKutta

_EMBEDDED = 0.291485418878409


class SSPRK3(ExplicitRungeKutta):
    """Shu-Osher SSP(3,3): keeps what Euler steps keep, such as positivity, up to the same step size.

    Shu & Osher 1988, *Efficient implementation of essentially non-oscillatory shock-capturing schemes*, (2.18). The
    embedded second-order method is that of Fekete, Conde & Shadid 2022, *Embedded pairs for optimal explicit strong
    stability preserving Runge-Kutta methods*.
    """

    name = "ssprk3"
    order = 3
    tableau = ButcherTableau(
        c=(0, 1, 1 / 2),
        a=((), (1,), (1 / 4, 1 / 4)),
        b=(1 / 6, 1 / 6, 2 / 3),
        b_error=(1 / 6 - _EMBEDDED, 1 / 6 - _EMBEDDED, 2 * _EMBEDDED - 1 / 3),
    )


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(SSPRK3)
