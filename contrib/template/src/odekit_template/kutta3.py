"""The solver kutta3, and the hook that gives it to odekit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import odekit
from odekit.core.runge_kutta import ButcherTableau, ExplicitRungeKutta


class Kutta3(ExplicitRungeKutta):
    """Kutta's third-order method (Kutta 1901): three stages, fixed steps."""

    name = "kutta3"
    order = 3
    tableau = ButcherTableau(c=(0, 1 / 2, 1), a=((), (1 / 2,), (-1, 2)), b=(1 / 6, 2 / 3, 1 / 6))


@odekit.hookimpl
def register_solvers(register: Callable[[Any], None]) -> None:
    register(Kutta3)
