"""Euler's method."""

from __future__ import annotations

from collections.abc import Callable

import odekit
from odekit.core.runge_kutta import ButcherTableau, ExplicitRungeKutta


class Euler(ExplicitRungeKutta):
    """Euler's method. Euler 1768, *Institutiones calculi integralis*."""

    name = "euler"
    order = 1
    tableau = ButcherTableau(c=(0,), a=((),), b=(1,))


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(Euler)
