"""Suzuki's composition of leapfrog steps, which stays inside the step."""

from __future__ import annotations

from collections.abc import Callable

import odekit
from odekit.core.composition import Composition

_OUTER = 1 / (4 - 4 ** (1 / 3))


class Suzuki4(Composition):
    """Five leapfrog steps, for separable systems, which may change with time.

    Smaller errors than Yoshida's three. Suzuki 1990, *Fractal decomposition of exponential operators*, (14).
    """

    name = "suzuki4"
    order = 4
    fractions = (_OUTER, _OUTER, 1 - 4 * _OUTER, _OUTER, _OUTER)


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(Suzuki4)
