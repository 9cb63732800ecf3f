"""TR-BDF2."""

from __future__ import annotations

import math
from collections.abc import Callable

import odekit
from odekit.core.implicit_runge_kutta import DiagonallyImplicitRungeKutta
from odekit.core.runge_kutta import ButcherTableau


def _tableau() -> ButcherTableau:
    """Hosea & Shampine's form with γ = 2 - √2; the embedded method is of order three."""
    d, w = 1 - math.sqrt(2) / 2, math.sqrt(2) / 4
    b = (w, w, d)
    first, second = (1 / 2 - 2 * d * w) / (1 - 2 * d), (w - 1 / 2) / (1 - 2 * d)
    embedded = ((1 - w) / 3, (3 * w + 1) / 3, d / 3)
    return ButcherTableau(
        c=(0, 2 * d, 1),
        a=((), (d, d), b),
        b=b,
        b_error=[weight - other for weight, other in zip(b, embedded, strict=True)],
        b_dense=((first, second), (first, second), (-2 * d * d / (1 - 2 * d), d / (1 - 2 * d))),
    )


class TRBDF2(DiagonallyImplicitRungeKutta):
    """The trapezoidal rule, then the second-order backward differentiation formula: L-stable.

    Bank et al. 1985, *Transient simulation of silicon devices and circuits*; Hosea & Shampine 1996, *Analysis and
    implementation of TR-BDF2*. Dense output is the quadratic through both ends and the stage between them, as in
    MATLAB's ode23tb: unlike cubics it needs no slope at the start, with which infinitely stiff components would grow.
    """

    name = "trbdf2"
    order = 2
    tableau = _tableau()


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(TRBDF2)
