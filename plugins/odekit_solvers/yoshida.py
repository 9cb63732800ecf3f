"""Yoshida's compositions of leapfrog steps, which look beyond their steps."""

from __future__ import annotations

from collections.abc import Callable

import odekit
from odekit.core.composition import Composition
from odekit_solvers.kahan_li import KahanLi6
from odekit_solvers.suzuki import Suzuki4

_OUTER = 1 / (2 - 2 ** (1 / 3))
_W1, _W2, _W3 = -1.17767998417887, 0.235573213359357, 0.784513610477560


class Yoshida4(Composition):
    """Three leapfrog steps, forwards, back, forwards, for separable systems, which may change with time.

    Yoshida 1990, *Construction of higher order symplectic integrators*, (2.11); Forest & Ruth 1990. The substeps reach
    0.35 steps beyond both ends; where that is outside the span, in its first and last step, a step is Suzuki's.
    """

    name = "yoshida4"
    order = 4
    fractions = (_OUTER, 1 - 2 * _OUTER, _OUTER)
    inner = Suzuki4


class Yoshida6(Composition):
    """Seven leapfrog steps, for separable systems, which may change with time. Yoshida 1990, Table 1, solution A.

    The substeps reach 0.16 steps beyond both ends; where that is outside the span, in its first and last step, a step
    is Kahan and Li's.
    """

    name = "yoshida6"
    order = 6
    fractions = (_W3, _W2, _W1, 1 - 2 * (_W1 + _W2 + _W3), _W1, _W2, _W3)
    inner = KahanLi6


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    for solver in (Yoshida4, Yoshida6):
        register(solver)
