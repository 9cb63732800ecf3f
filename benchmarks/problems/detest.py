"""NONSTIFF DETEST: five small families of problems, all from t = 0 to 20.

Hull, Enright, Fellen & Sedgwick 1972, *Comparing numerical methods for ordinary differential equations*. Answers are
those of Enright & Pryce 1987, *Two FORTRAN packages for assessing initial value methods* (TOMS Algorithm 648), and
matrix exponentials for the linear problems C1 to C4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.problems.problem import Problem, tensor

PUBLISHED = "Enright & Pryce 1987"
SPAN = (0.0, 20.0)
FLOOR = 1e-3

Field = Callable[[Tensor, Tensor], Tensor]


def _problem(name: str, f: Field, y0: Any, reference: Any, source: str = PUBLISHED, floor: float = FLOOR) -> Problem:
    return Problem(name, f, y0, SPAN, reference, source, floor)


# A: one equation


def _a1(t: Tensor, y: Tensor) -> Tensor:
    """Decay."""
    return -y


def _a2(t: Tensor, y: Tensor) -> Tensor:
    """A special case of Riccati's equation."""
    return -(y**3) / 2


def _a3(t: Tensor, y: Tensor) -> Tensor:
    """An oscillation."""
    return y * torch.cos(t)


def _a4(t: Tensor, y: Tensor) -> Tensor:
    """A logistic curve."""
    return y / 4 * (1 - y / 20)


def _a5(t: Tensor, y: Tensor) -> Tensor:
    """A spiral curve."""
    return (y - t) / (y + t)


# B: small systems


def _b1(t: Tensor, y: Tensor) -> Tensor:
    """Growth of two conflicting populations."""
    u, v = y.unbind(-1)
    return torch.stack([2 * (u - u * v), -(v - u * v)], -1)


def _b2(t: Tensor, y: Tensor) -> Tensor:
    """A linear chemical reaction."""
    u, v, w = y.unbind(-1)
    return torch.stack([v - u, u - 2 * v + w, v - w], -1)


def _b3(t: Tensor, y: Tensor) -> Tensor:
    """A nonlinear chemical reaction."""
    u, v, _ = y.unbind(-1)
    return torch.stack([-u, u - v**2, v**2], -1)


def _b4(t: Tensor, y: Tensor) -> Tensor:
    """An integral surface of a torus."""
    u, v, w = y.unbind(-1)
    r = torch.hypot(u, v)
    return torch.stack([-v - u * w / r, u - v * w / r, u / r], -1)


def _b5(t: Tensor, y: Tensor) -> Tensor:
    """Euler's equations of a rigid body without external forces."""
    u, v, w = y.unbind(-1)
    return torch.stack([v * w, -u * w, -0.51 * u * v], -1)


# C: moderate systems


def _chain(n: int, rates: list[float]) -> Tensor:
    """A chain of decays: species i goes over into the next one at ``rates[i]``."""
    matrix = torch.zeros(n, n, dtype=torch.float64)
    for i, rate in enumerate(rates):
        matrix[i, i] -= rate
        matrix[i + 1, i] += rate
    return matrix


def _heat(n: int) -> Tensor:
    """Second differences, which a parabolic equation leads to."""
    one = torch.ones(n - 1, dtype=torch.float64)
    return torch.diag(one, 1) + torch.diag(one, -1) - 2 * torch.eye(n, dtype=torch.float64)


def _linear(name: str, matrix: Tensor) -> Problem:
    y0 = torch.zeros(matrix.shape[0], dtype=torch.float64)
    y0[0] = 1
    exact = torch.linalg.matrix_exp(matrix * SPAN[1]) @ y0
    return _problem(name, lambda t, y: y @ matrix.mT, y0, exact, "matrix exponential")


_GRAVITY = 2.95912208286
_SUN = 1.00000597682
_PLANETS = tensor([0.000954786104043, 0.000285583733151, 0.0000437273164546, 0.0000517759138449, 0.00000277777777778])


def _c5(t: Tensor, y: Tensor) -> Tensor:
    """The five outer planets around the sun: places ``[5, 3]``, then velocities."""
    place, velocity = y.unflatten(-1, (2, 5, 3)).unbind(-3)
    to_sun = place.square().sum(-1, keepdim=True) ** -1.5
    apart = place.unsqueeze(-3) - place.unsqueeze(-2)
    cubes = apart.square().sum(-1) ** 1.5 + torch.eye(5, dtype=y.dtype)
    pulls = ((_PLANETS / cubes).unsqueeze(-1) * apart).sum(-2)
    drag = _PLANETS.unsqueeze(-1) * to_sun * place
    others = drag.sum(-2, keepdim=True) - drag
    acceleration = _GRAVITY * (pulls - others - (_SUN + _PLANETS).unsqueeze(-1) * to_sun * place)
    return torch.stack([velocity, acceleration], -3).flatten(-3)


# D: orbits


def _orbit(t: Tensor, y: Tensor) -> Tensor:
    """Two bodies; D1 to D5 differ in their eccentricity."""
    place, velocity = y[..., :2], y[..., 2:]
    return torch.cat([velocity, -place * place.square().sum(-1, keepdim=True) ** -1.5], -1)


def _orbit_start(e: float) -> tuple[float, ...]:
    return 1 - e, 0.0, 0.0, math.sqrt((1 + e) / (1 - e))


# E: higher order equations


def _e1(t: Tensor, y: Tensor) -> Tensor:
    """Bessel's equation of order 1/2, moved by one."""
    u, v = y.unbind(-1)
    return torch.stack([v, -(v / (t + 1) + (1 - 0.25 / (t + 1) ** 2) * u)], -1)


def _e2(t: Tensor, y: Tensor) -> Tensor:
    """Van der Pol's equation."""
    u, v = y.unbind(-1)
    return torch.stack([v, (1 - u**2) * v - u], -1)


def _e3(t: Tensor, y: Tensor) -> Tensor:
    """Duffing's equation."""
    u, v = y.unbind(-1)
    return torch.stack([v, u**3 / 6 - u + 2 * torch.sin(2.78535 * t)], -1)


def _e4(t: Tensor, y: Tensor) -> Tensor:
    """A falling body."""
    _, v = y.unbind(-1)
    return torch.stack([v, 0.032 - 0.4 * v**2], -1)


def _e5(t: Tensor, y: Tensor) -> Tensor:
    """Linear pursuit."""
    _, v = y.unbind(-1)
    return torch.stack([v, torch.sqrt(1 + v**2) / (25 - t)], -1)


_ALL = (
    _problem("A1", _a1, (1,), (2.061153353012535e-09,)),
    _problem("A2", _a2, (1,), (2.182178902359887e-01,)),
    _problem("A3", _a3, (1,), (2.491650271850414,)),
    _problem("A4", _a4, (1,), (17.73016648131483,)),
    _problem("A5", _a5, (4,), (-7.887826688964196e-01,)),
    _problem("B1", _b1, (1, 3), (6.761876008576667e-01, 1.860816099640036e-01)),
    _problem("B2", _b2, (2, 0, 1), (1.000000001030576, 1.000000000000000, 9.999999989694235e-01)),
    _problem("B3", _b3, (1, 0, 0), (2.061153488557776e-09, 5.257228022048349e-02, 9.474277177183630e-01)),
    _problem("B4", _b4, (3, 0, 0), (9.826950928005993e-01, 2.198447081694832, 9.129452507276399e-01)),
    _problem("B5", _b5, (0, 1, 1), (-9.396570798729192e-01, -3.421177754000779e-01, 7.414126596199957e-01)),
    _linear("C1", _chain(10, [1.0] * 9)),
    _linear("C2", _chain(10, [float(i + 1) for i in range(9)])),
    _linear("C3", _heat(10)),
    _linear("C4", _heat(51)),
    _problem(
        "C5",
        _c5,
        (
            3.42947415189, 3.35386959711, 1.35494901715, 6.64145542550, 5.97156957878, 2.18231499728,
            11.2630437207, 14.6952576794, 6.27960525067, -30.1552268759, 1.65699966404, 1.43785752721,
            -21.1238353380, 28.4465098142, 15.3882659679,
            -0.557160570446, 0.505696783289, 0.230578543901, -0.415570776342, 0.365682722812, 0.169143213293,
            -0.325325669158, 0.189706021964, 0.0877265322780, -0.0240476254170, -0.287659532608, -0.117219543175,
            -0.176860753121, -0.216393453025, -0.0148647893090,
        ),
        (
            -4.792730224323733, -2.420550725448973, -9.212509306014886e-01, -4.217310404035213, 7.356202947498970,
            3.223785985421212, 4.035559443262270, 17.19865528670555, 7.478910794233703, -29.98759326324844,
            -4.107310937550929, -9.277008321754407e-01, -24.42125302518482, 23.81459045746554, 14.92096306951359,
            3.499208963063806e-01, -5.748487687912825e-01, -2.551694020879149e-01, -5.237040978903326e-01,
            -2.493000463579661e-01, -8.045341642044464e-02, -3.875289237334110e-01, 5.648603288767891e-02,
            3.023606472143342e-02, 4.133856546712445e-02, -2.862393029841379e-01, -1.183032405136207e-01,
            -1.511986457359206e-01, -2.460068894318766e-01, -3.189687411323877e-02,
        ),
    ),
    _problem(
        "D1", _orbit, _orbit_start(0.1),
        (2.198835352008397e-01, 9.427076846341813e-01, -9.787659841058176e-01, 3.287977990962036e-01),
    ),
    _problem(
        "D2", _orbit, _orbit_start(0.3),
        (-1.777027357140412e-01, 9.467784719905892e-01, -1.030294163192969, 1.211074890053952e-01),
    ),
    _problem(
        "D3", _orbit, _orbit_start(0.5),
        (-5.780432953035361e-01, 8.633840009194193e-01, -9.595083730380727e-01, -6.504915126712089e-02),
    ),
    _problem(
        "D4", _orbit, _orbit_start(0.7),
        (-9.538990293416394e-01, 6.907409024219432e-01, -8.212674270877433e-01, -1.539574259125825e-01),
    ),
    _problem(
        "D5", _orbit, _orbit_start(0.9),
        (-1.295266250987574, 4.003938963792321e-01, -6.775390924707566e-01, -1.270838154278686e-01),
    ),
    _problem(
        "E1", _e1, (0.6713967071418030, 0.09540051444747446), (1.456723600728308e-01, -9.883500195574063e-02)
    ),
    _problem("E2", _e2, (2, 0), (2.008149762174948, -4.250887527320057e-02)),
    _problem("E3", _e3, (0, 0), (-1.004178858647128e-01, 2.411400132095954e-01)),
    _problem("E4", _e4, (30, 0), (33.95091444646555, 2.767822659672869e-01)),
    _problem("E5", _e5, (0, 0), (14.11797390542629, 2.400000000000002)),
)  # fmt: skip

DETEST: dict[str, Problem] = {problem.name: problem for problem in _ALL}
