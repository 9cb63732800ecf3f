"""Alexander's two-stage SDIRK method."""

from __future__ import annotations

import math
from collections.abc import Callable

import odekit
from odekit.core.implicit_runge_kutta import DiagonallyImplicitRungeKutta
from odekit.core.runge_kutta import ButcherTableau

_G = 1 - math.sqrt(2) / 2


class SDIRK2(DiagonallyImplicitRungeKutta):
    """Two stages with one matrix, of order two, L-stable and stiffly accurate; adapts by its first stage.

    Alexander 1977, *Diagonally implicit Runge-Kutta methods for stiff ODEs*, Section 2.
    """

    name = "sdirk2"
    order = 2
    tableau = ButcherTableau(
        c=(_G, 1),
        a=((_G,), (1 - _G, _G)),
        b=(1 - _G, _G),
        b_error=(-_G, _G),
        b_dense=((1 / (1 - _G), -1 / (2 - 2 * _G)), (-_G / (1 - _G), 1 / (2 - 2 * _G))),
    )


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(SDIRK2)
