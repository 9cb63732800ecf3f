"""The Dormand-Prince 5(4) pair."""

from __future__ import annotations

from collections.abc import Callable

import odekit
from odekit.core.runge_kutta import ButcherTableau, ExplicitRungeKutta


def _dopri5_dense() -> list[tuple[float, ...]]:
    """The fourth-order continuous extension of Dormand-Prince 5(4) as polynomials in θ.

    The cubic Hermite interpolant plus θ²(1-θ)² Σ d_i k_i, with the d of Hairer, Nørsett & Wanner, *Solving ODEs I*,
    II.6.
    """
    b = (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0)
    d = (
        -12715105075 / 11282082432, 0, 87487479700 / 32700410799, -10690763975 / 1880347072,
        701980252875 / 199316789632, -1453857185 / 822651844, 69997945 / 29380423,
    )  # fmt: skip
    rows = [[0.0, 3 * b_i + d_i, -2 * b_i - 2 * d_i, d_i] for b_i, d_i in zip(b, d, strict=True)]
    for power, (first, last) in enumerate([(1, 0), (-2, -1), (1, 1)]):
        rows[0][power] += first
        rows[-1][power] += last
    return [tuple(row) for row in rows]


class Dopri5(ExplicitRungeKutta):
    """Dormand-Prince 5(4), FSAL, fourth-order dense output. Dormand & Prince 1980, *Embedded RK formulae*."""

    name = "dopri5"
    order = 5
    tableau = ButcherTableau(
        c=(0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1),
        a=(
            (),
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        ),
        b=(35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0),
        b_error=(71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
        b_dense=_dopri5_dense(),
    )


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(Dopri5)
