"""The three-stage Radau IIA method."""

from __future__ import annotations

import math
from collections.abc import Callable

import odekit
from odekit.core.fully_implicit import FullyImplicitRungeKutta
from odekit.core.runge_kutta import ButcherTableau

_R = math.sqrt(6)
_B = ((16 - _R) / 36, (16 + _R) / 36, 1 / 9)


class Radau5(FullyImplicitRungeKutta):
    """Radau IIA of order five, L-stable: the method of choice for stiff problems at moderate tolerances.

    Ehle 1969; Hairer & Wanner, *Solving ODEs II*, Table IV.5.6 and IV.8.
    """

    name = "radau5"
    order = 5
    tableau = ButcherTableau(
        c=((4 - _R) / 10, (4 + _R) / 10, 1),
        a=(
            ((88 - 7 * _R) / 360, (296 - 169 * _R) / 1800, (-2 + 3 * _R) / 225),
            ((296 + 169 * _R) / 1800, (88 + 7 * _R) / 360, (-2 - 3 * _R) / 225),
            _B,
        ),
        b=_B,
    )


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(Radau5)
