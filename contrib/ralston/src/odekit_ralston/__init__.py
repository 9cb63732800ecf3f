"""Ralston's fourth-order method as a solver of odekit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import odekit
from odekit.core.runge_kutta import ButcherTableau, ExplicitRungeKutta

_R5 = 5**0.5


class Ralston4(ExplicitRungeKutta):
    """Four stages, order four, the least error bound. Ralston 1962, *Runge-Kutta methods with minimum error bounds*."""

    name = "ralston4"
    order = 4
    tableau = ButcherTableau(
        c=(0, 2 / 5, (14 - 3 * _R5) / 16, 1),
        a=(
            (),
            (2 / 5,),
            ((-2889 + 1428 * _R5) / 1024, (3785 - 1620 * _R5) / 1024),
            ((-3365 + 2094 * _R5) / 6040, (-975 - 3046 * _R5) / 2552, (467040 + 203968 * _R5) / 240845),
        ),
        b=(
            (263 + 24 * _R5) / 1812,
            (125 - 1000 * _R5) / 3828,
            (3426304 + 1661952 * _R5) / 5924787,
            (30 - 4 * _R5) / 123,
        ),
    )


@odekit.hookimpl
def register_solvers(register: Callable[[Any], None]) -> None:
    register(Ralston4)
