"""Heun's second-order method."""

from __future__ import annotations

from collections.abc import Callable

import odekit
from odekit.core.runge_kutta import ButcherTableau, ExplicitRungeKutta


class Heun(ExplicitRungeKutta):
    """Heun's second-order method, the explicit trapezoidal rule; adaptive against Euler's method. Heun 1900."""

    name = "heun"
    order = 2
    tableau = ButcherTableau(c=(0, 1), a=((), (1,)), b=(1 / 2, 1 / 2), b_error=(-1 / 2, 1 / 2))


class AdaptiveHeun(Heun):
    """Heun's second-order method by its name in torchdiffeq: the same as heun."""

    name = "adaptive_heun"


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(Heun)
    register(AdaptiveHeun)
