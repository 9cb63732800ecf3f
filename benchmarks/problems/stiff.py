"""Stiff problems.

Most are from the *Test Set for IVP Solvers* (Mazzia & Magherini 2008, release 2.4), whose answers come from RADAU in
extended precision; they are also in Hairer & Wanner, *Solving ODEs II*, IV.10. Floors follow the sizes that components
have at the end.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmarks.problems.problem import Problem

TEST_SET = "Test Set for IVP Solvers 2.4"
COMPUTED = "python -m benchmarks.problems.references (SciPy's Radau, rtol 1e-13)"


def _rober(t: Tensor, y: Tensor) -> Tensor:
    """Robertson's three reactions."""
    a, b, c = y.unbind(-1)
    slow, fast, pair = 0.04 * a, 1e4 * b * c, 3e7 * b**2
    return torch.stack([fast - slow, slow - fast - pair, pair], -1)


def _vdpol(t: Tensor, y: Tensor) -> Tensor:
    """Van der Pol's oscillator with μ = 1000, in the time that is scaled by μ."""
    u, v = y.unbind(-1)
    return torch.stack([v, 1e6 * ((1 - u**2) * v - u)], -1)


def _hires(t: Tensor, y: Tensor) -> Tensor:
    """High irradiance responses of morphogenesis."""
    a, b, c, d, e, f, g, h = y.unbind(-1)
    bound = 280 * f * h
    return torch.stack(
        [
            -1.71 * a + 0.43 * b + 8.32 * c + 0.0007,
            1.71 * a - 8.75 * b,
            -10.03 * c + 0.43 * d + 0.035 * e,
            8.32 * b + 1.71 * c - 1.12 * d,
            -1.745 * e + 0.43 * f + 0.43 * g,
            -bound + 0.69 * d + 1.71 * e - 0.43 * f + 0.69 * g,
            bound - 1.81 * g,
            -bound + 1.81 * g,
        ],
        -1,
    )


def _orego(t: Tensor, y: Tensor) -> Tensor:
    """The oregonator."""
    a, b, c = y.unbind(-1)
    return torch.stack(
        [77.27 * (b + a * (1 - 8.375e-6 * a - b)), (c - (1 + a) * b) / 77.27, 0.161 * (a - c)],
        -1,
    )


_POLLU_RATES = (
    0.35, 26.6, 1.23e4, 8.6e-4, 8.2e-4, 1.5e4, 1.3e-4, 2.4e4, 1.65e4, 9e3, 0.022, 1.2e4, 1.88, 1.63e4, 4.8e6, 3.5e-4,
    0.0175, 1e8, 4.44e11, 1240.0, 2.1, 5.78, 0.0474, 1780.0, 3.12,
)  # fmt: skip
# Every reaction: what goes in, and what comes out; species are numbered from 1 as in the paper.
_POLLU_REACTIONS: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((1,), (2, 3)), ((2, 4), (1,)), ((5, 2), (6, 1)), ((7,), (5, 5, 8)), ((7,), (8,)), ((7, 6), (5, 8)),
    ((9,), (5, 8, 10)), ((9, 6), (11,)), ((11, 2), (10, 1, 12)), ((11, 1), (13,)), ((13,), (11, 1)),
    ((10, 2), (14, 1)), ((14,), (7, 5)), ((1, 6), (15,)), ((3,), (4,)), ((4,), (16,)), ((4,), (3,)), ((16,), (6, 6)),
    ((16,), (3,)), ((17, 6), (18, 5)), ((19,), (2,)), ((19,), (1, 3)), ((1, 4), (19,)), ((19, 1), (20,)),
    ((20,), (19, 1)),
)  # fmt: skip


def pollu_network() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The rates ``[25]``, the species that react ``[25]`` twice (20 for none), and the net change ``[25, 20]``."""
    first = torch.tensor([ins[0] - 1 for ins, _ in _POLLU_REACTIONS])
    second = torch.tensor([ins[1] - 1 if len(ins) > 1 else 20 for ins, _ in _POLLU_REACTIONS])
    change = torch.zeros(25, 20, dtype=torch.float64)
    for row, (ins, outs) in zip(change, _POLLU_REACTIONS, strict=True):
        for species in ins:
            row[species - 1] -= 1
        for species in outs:
            row[species - 1] += 1
    return torch.tensor(_POLLU_RATES, dtype=torch.float64), first, second, change


_RATES, _FIRST, _SECOND, _CHANGE = pollu_network()


def _pollu(t: Tensor, y: Tensor) -> Tensor:
    """Twenty species of air pollution in 25 reactions (Verwer 1994)."""
    padded = torch.cat([y, torch.ones_like(y[..., :1])], -1)
    return (_RATES * padded[..., _FIRST] * padded[..., _SECOND]) @ _CHANGE


def _e5(t: Tensor, y: Tensor) -> Tensor:
    """Chemical pyrolysis, the fifth of class E in STIFF DETEST.

    b - c - d stays 0. From t = 1e7 on rounding alone, which began while b was 1e-10, shows in that difference, and in
    the end, where b and c are 1e-22, nothing of them is left. Hence a floor of 1e-15 there, and a shorter span beside.
    """
    a, b, c, d = y.unbind(-1)
    one, two, three, four = 7.89e-10 * a, 1.1e7 * a * c, 1.13e9 * b * c, 1.13e3 * d
    return torch.stack([-one - two, one - three, one - two - three + four, two - four], -1)


BRUSSELATOR_POINTS = 32


def _brusselator(t: Tensor, y: Tensor) -> Tensor:
    """The 1-D Brusselator with diffusion by the method of lines: u and v at 32 inner points, u = 1 and v = 3 at both
    ends, α = 1/50. Hairer & Wanner, *Solving ODEs II*, IV.1 (1.6)."""
    u, v = y.unflatten(-1, (2, BRUSSELATOR_POINTS)).unbind(-2)
    product = u**2 * v
    du = 1 + product - 4 * u + _diffusion(u, 1.0)
    dv = 3 * u - product + _diffusion(v, 3.0)
    return torch.cat([du, dv], -1)


def _diffusion(u: Tensor, edge: float) -> Tensor:
    ends = torch.full_like(u[..., :1], edge)
    left, right = torch.cat([ends, u[..., :-1]], -1), torch.cat([u[..., 1:], ends], -1)
    return (BRUSSELATOR_POINTS + 1) ** 2 / 50 * (left - 2 * u + right)


def _brusselator_start() -> list[float]:
    grid = [(i + 1) / (BRUSSELATOR_POINTS + 1) for i in range(BRUSSELATOR_POINTS)]
    return [1 + math.sin(2 * math.pi * x) for x in grid] + [3.0] * BRUSSELATOR_POINTS


_ALL = (
    Problem(
        "rober-40",
        _rober,
        (1, 0, 0),
        (0.0, 40.0),
        (0.7158270687194074, 9.185534764557778e-06, 0.2841637457458309),
        COMPUTED,
        floor=(1e-3, 1e-6, 1e-3),
    ),
    Problem(
        "rober",
        _rober,
        (1, 0, 0),
        (0.0, 1e11),
        (0.2083340149701255e-07, 0.8333360770334713e-13, 0.9999999791665050),
        TEST_SET,
        floor=(1e-8, 1e-14, 1e-8),
    ),
    Problem(
        "vdpol",
        _vdpol,
        (2, 0),
        (0.0, 2.0),
        (1.706167732170483, -0.8928097010247975),
        TEST_SET,
        floor=(1e-3, 1e-3),
    ),
    Problem(
        "hires",
        _hires,
        (1, 0, 0, 0, 0, 0, 0, 0.0057),
        (0.0, 321.8122),
        (
            0.7371312573325668e-3, 0.1442485726316185e-3, 0.5888729740967575e-4, 0.1175651343283149e-2,
            0.2386356198831331e-2, 0.6238968252742796e-2, 0.2849998395185769e-2, 0.2850001604814231e-2,
        ),
        TEST_SET,
        floor=1e-4,
    ),
    Problem(
        "orego",
        _orego,
        (1, 2, 3),
        (0.0, 360.0),
        (0.1000814870318523e1, 0.1228178521549917e4, 0.1320554942846706e3),
        TEST_SET,
        floor=1e-3,
    ),
    Problem(
        "pollu",
        _pollu,
        (0, 0.2, 0, 0.04, 0, 0, 0.1, 0.3, 0.01, 0, 0, 0, 0, 0, 0, 0, 0.007, 0, 0, 0),
        (0.0, 60.0),
        (
            0.5646255480022769e-01, 0.1342484130422339e+00, 0.4139734331099427e-08, 0.5523140207484359e-02,
            0.2018977262302196e-06, 0.1464541863493966e-06, 0.7784249118997964e-01, 0.3245075353396018e+00,
            0.7494013383880406e-02, 0.1622293157301561e-07, 0.1135863833257075e-07, 0.2230505975721359e-02,
            0.2087162882798630e-03, 0.1396921016840158e-04, 0.8964884856898295e-02, 0.4352846369330103e-17,
            0.6899219696263405e-02, 0.1007803037365946e-03, 0.1772146513969984e-05, 0.5682943292316392e-04,
        ),
        TEST_SET,
        floor=1e-8,
    ),
    Problem(
        "e5",
        _e5,
        (1.76e-3, 0, 0, 0),
        (0.0, 1e13),
        (0.1152903278711829e-290, 0.8867655517642120e-22, 0.8854814626268838e-22, 0.0),
        TEST_SET,
        floor=1e-15,
    ),
    Problem(
        "e5-short",
        _e5,
        (1.76e-3, 0, 0, 0),
        (0.0, 1e5),
        (7.481320821821473e-06, 2.373478155813571e-12, 2.212358669065521e-12, 1.611194871571608e-13),
        COMPUTED,
        floor=1e-18,
    ),
    Problem(
        "brusselator",
        _brusselator,
        _brusselator_start(),
        (0.0, 10.0),
        (
            0.9217199975634099, 0.8463139328060219, 0.7760884584320372, 0.7126245833455335,
            0.6567646173591181, 0.60871036135161, 0.568181338109084, 0.5345855075506839,
            0.5071702627614579, 0.4851386575670577, 0.46772886042500444, 0.4542622109894273,
            0.44416799865083517, 0.4369929763197954, 0.43240220526991646, 0.43017607514756545,
            0.4302067358516657, 0.43249586336960844, 0.43715462764883745, 0.4444058216461446,
            0.45458720182278645, 0.46815403871756195, 0.4856775733494474, 0.5078345020817675,
            0.535380937704076, 0.5691030203416891, 0.6097364714537463, 0.6578504156924359,
            0.7136984311221213, 0.7770528426052913, 0.8470549064182107, 0.9221276459425229,
            3.098815870984639, 3.193898201877571, 3.282182758672288, 3.361507789074002,
            3.430667872353381, 3.489323340215261, 3.5378227443531696, 3.576994750327545,
            3.607950535092086, 3.6319190700432116, 3.6501224351908284, 3.6636887721865095,
            3.6735959936426834, 3.680638257926959, 3.6854079291501045, 3.688287201033362,
            3.6894451831908897, 3.6888377808749726, 3.686209093676898, 3.681094362526904,
            3.672825792903899, 3.6605439588974504, 3.643218989122093, 3.619687289671545,
            3.588710906906999, 3.5490671689020665, 3.499674892884538, 3.4397586781529754,
            3.3690430698867773, 3.287953254224064, 3.1977809591586244, 3.10076040450205,
        ),
        COMPUTED,
        floor=1e-2,
    ),
)  # fmt: skip

STIFF: dict[str, Problem] = {problem.name: problem for problem in _ALL}
