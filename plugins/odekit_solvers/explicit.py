"""Explicit Runge-Kutta methods."""

from __future__ import annotations

from collections.abc import Callable

import odekit
from odekit.core.runge_kutta import ButcherTableau, ExplicitRungeKutta


class Euler(ExplicitRungeKutta):
    """Euler's method. Euler 1768, *Institutiones calculi integralis*."""

    name = "euler"
    order = 1
    tableau = ButcherTableau(c=(0,), a=((),), b=(1,))


class Midpoint(ExplicitRungeKutta):
    """The explicit midpoint rule; adaptive against Euler's method. Runge 1895, *Über die numerische Auflösung*."""

    name = "midpoint"
    order = 2
    tableau = ButcherTableau(c=(0, 1 / 2), a=((), (1 / 2,)), b=(0, 1), b_error=(-1, 1))


class Heun(ExplicitRungeKutta):
    """Heun's second-order method, the explicit trapezoidal rule; adaptive against Euler's method. Heun 1900."""

    name = "heun"
    order = 2
    tableau = ButcherTableau(c=(0, 1), a=((), (1,)), b=(1 / 2, 1 / 2), b_error=(-1 / 2, 1 / 2))


class RK4(ExplicitRungeKutta):
    """The classical fourth-order method. Kutta 1901, *Beitrag zur näherungsweisen Integration*."""

    name = "rk4"
    order = 4
    tableau = ButcherTableau(
        c=(0, 1 / 2, 1 / 2, 1),
        a=((), (1 / 2,), (0, 1 / 2), (0, 0, 1)),
        b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
    )


class RK4ThreeEighths(ExplicitRungeKutta):
    """Kutta's 3/8 rule, of order four; what torchdiffeq calls rk4. Kutta 1901."""

    name = "rk4-38"
    order = 4
    tableau = ButcherTableau(
        c=(0, 1 / 3, 2 / 3, 1),
        a=((), (1 / 3,), (-1 / 3, 1), (1, -1, 1)),
        b=(1 / 8, 3 / 8, 3 / 8, 1 / 8),
    )


class Bosh3(ExplicitRungeKutta):
    """Bogacki-Shampine 3(2) pair, FSAL. Bogacki & Shampine 1989, *A 3(2) pair of RK formulas*."""

    name = "bosh3"
    order = 3
    tableau = ButcherTableau(
        c=(0, 1 / 2, 3 / 4, 1),
        a=((), (1 / 2,), (0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
        b=(2 / 9, 1 / 3, 4 / 9, 0),
        b_error=(2 / 9 - 7 / 24, 1 / 3 - 1 / 4, 4 / 9 - 1 / 3, -1 / 8),
    )


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


class Tsit5(ExplicitRungeKutta):
    """Tsitouras 5(4), FSAL, fourth-order dense output. Tsitouras 2011, *Runge-Kutta pairs of order 5(4)*."""

    name = "tsit5"
    order = 5
    tableau = ButcherTableau(
        c=(0, 0.161, 0.327, 0.9, 0.9800255409045097, 1, 1),
        a=(
            (),
            (0.161,),
            (-0.008480655492356989, 0.335480655492357),
            (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
            (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
            (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383),
            (0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774),
        ),
        b=(0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774, 0),
        b_error=(
            0.00178001105222577714, 0.0008164344596567469, -0.007880878010261995, 0.1447110071732629,
            -0.5823571654525552, 0.45808210592918697, -1 / 66,
        ),
        b_dense=(
            (1.0, -2.763706197274826, 2.9132554618219126, -1.0530884977290216),
            (0.0, 0.13169999999999998, -0.2234, 0.1017),
            (0.0, 3.9302962368947516, -5.941033872131505, 2.490627285651253),
            (0.0, -12.411077166933676, 30.33818863028232, -16.548102889244902),
            (0.0, 37.50931341651104, -88.1789048947664, 47.37952196281928),
            (0.0, -27.896526289197286, 65.09189467479366, -34.87065786149661),
            (0.0, 1.5, -4.0, 2.5),
        ),
    )  # fmt: skip


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    for solver in (Euler, Midpoint, Heun, RK4, RK4ThreeEighths, Bosh3, Dopri5, Tsit5):
        register(solver)
