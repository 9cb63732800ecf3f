"""Kahan and Li's composition of nine leapfrog steps, which stays inside the step."""

from __future__ import annotations

from collections.abc import Callable

import odekit
from odekit.core.composition import Composition

_OUTER = (0.39216144400731413928, 0.33259913678935943860, -0.70624617255763935981, 0.082213596293550800230)


class KahanLi6(Composition):
    """Nine leapfrog steps, for separable systems, which may change with time.

    Kahan & Li 1997, *Composition constants for raising the orders of unconventional schemes*, s9odr6a.
    """

    name = "kahan_li6"
    order = 6
    fractions = (*_OUTER, 1 - 2 * sum(_OUTER), *reversed(_OUTER))


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(KahanLi6)
