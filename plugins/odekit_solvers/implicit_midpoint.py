"""The implicit midpoint rule."""

from __future__ import annotations

from collections.abc import Callable

import odekit
from odekit.core.fully_implicit import FullyImplicitRungeKutta
from odekit.core.runge_kutta import ButcherTableau


class ImplicitMidpoint(FullyImplicitRungeKutta):
    """The implicit midpoint rule, Gauss's method with one stage: A-stable, symmetric and symplectic.

    Hairer & Wanner, *Solving ODEs II*, IV.5.
    """

    name = "implicit_midpoint"
    order = 2
    tableau = ButcherTableau(c=(1 / 2,), a=((1 / 2,),), b=(1,))


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(ImplicitMidpoint)
