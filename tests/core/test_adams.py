"""Adams methods: on any grid, of any order, from their first step on."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from odekit_solvers.adams_bashforth import AdamsBashforth
from odekit_solvers.adams_bashforth_moulton import AdamsBashforthMoulton
from problems import AUTONOMOUS, DOUBLE, TIMED, Counted, Reference, decay, slope
from scipy.integrate import quad
from torch import Tensor

from odekit import PIDControl, solve
from odekit.core.adams import Adams, integrals, weights
from odekit.core.protocols import Proposal, StepControl, Verdict
from odekit.errors import InputError

FAMILIES = [AdamsBashforth, AdamsBashforthMoulton]


@pytest.mark.parametrize(
    ("nodes", "textbook"),
    [
        ((0.0, -1.0, -2.0, -3.0), (55 / 24, -59 / 24, 37 / 24, -9 / 24)),
        ((1.0, 0.0, -1.0, -2.0), (9 / 24, 19 / 24, -5 / 24, 1 / 24)),
        ((0.0, 0.5, 1.0), (1 / 6, 4 / 6, 1 / 6)),
    ],
    ids=["Bashforth", "Moulton", "Simpson"],
)
def test_weights_on_even_grids_are_the_textbook_ones(nodes: tuple[float, ...], textbook: tuple[float, ...]) -> None:
    assert weights(nodes) == pytest.approx(textbook, rel=1e-14)


def test_weights_on_uneven_grids_integrate_what_interpolates() -> None:
    nodes = (1.0, 0.0, -0.3, -1.7, -1.9)

    def lagrange(x: float, j: int) -> float:
        return math.prod((x - other) / (nodes[j] - other) for i, other in enumerate(nodes) if i != j)

    for theta in (0.2, 0.7, 1.0):
        expected = [quad(lagrange, 0, theta, args=(j,))[0] for j in range(len(nodes))]
        assert weights(nodes, theta) == pytest.approx(expected, rel=1e-12)
    assert all(len(polynomial) == len(nodes) for polynomial in integrals(nodes))


class Uneven(StepControl):
    """Steps of the given mean size, every other one 2.5 times as long."""

    adaptive = False

    def __init__(self, size: float) -> None:
        self.sizes = (size * 2 / 3.5, size * 5 / 3.5)

    def start(self, f: Any, t0: float, t1: float, *args: Any) -> Proposal:
        return Proposal(t0 + math.copysign(self.sizes[0], t1 - t0), 0)

    def judge(self, step: Any, t0: float, t1: float, solver: Any, tolerance: Any, carry: int) -> Verdict:
        return Verdict(True, t1 + math.copysign(self.sizes[(carry + 1) % 2], t1 - t0), carry + 1)


@pytest.mark.parametrize("span", [(0.2, 1.7), (1.7, 0.2)], ids=["forwards", "backwards"])
@pytest.mark.parametrize("problem", [AUTONOMOUS, TIMED], ids=str)
@pytest.mark.parametrize("order", [3, 6])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_order_on_uneven_steps(
    family: type[Adams], order: int, problem: Reference, span: tuple[float, float]
) -> None:
    counts = (32, 64, 128) if order < 5 else (32, 48, 72)
    errors = []
    for count in counts:
        control = Uneven(1.5 / count)
        y1 = solve(problem.f, problem.exact(span[0]), span, solver=family(order=order), control=control).y1
        errors.append(float((y1 - problem.exact(span[1])).abs().max()))
    assert slope([1 / count for count in counts], errors) > order - 0.4


@pytest.mark.parametrize("order", range(2, 9))
@pytest.mark.parametrize("family", FAMILIES)
def test_polynomials_come_out_exactly(family: type[Adams], order: int) -> None:
    """y' = d/dt of a polynomial of the method's degree: starting values, steps and dense output make no error."""

    def poly(t: Any) -> Any:
        return sum((k + 1) * t**k for k in range(order + 1))

    def slope_of(t: Tensor, y: Tensor) -> Tensor:
        return sum(k * (k + 1) * t ** (k - 1) for k in range(1, order + 1)) * torch.ones_like(y)

    times = torch.linspace(0.1, 1.1, 23, dtype=DOUBLE)
    solution = solve(slope_of, poly(times[:1]), times, solver=family(order=order), control=Uneven(0.07))
    torch.testing.assert_close(solution.ys[:, 0], poly(times), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("order", [2, 4, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_smaller_steps_are_stable_steps(family: type[Adams], order: int) -> None:
    """y' = -8 y: whatever the starting values, refining ends in convergence."""
    errors = []
    for size in (0.05, 0.005, 0.0025):
        y0 = torch.ones(1, dtype=DOUBLE)
        y1 = solve(lambda t, y: -8 * y, y0, [0, 1], solver=family(order=order), step_size=size).y1
        errors.append(float((y1 - math.exp(-8)).abs()))
    assert errors[2] < max(errors[1] / 3, 1e-14)
    assert errors[2] < 1e-6


@pytest.mark.parametrize("order", [2, 4, 7])
def test_what_a_step_costs(order: int) -> None:
    """One call and two, after a first step of order (order - 1) calls and the slope at the start."""
    start = 1 + order * (order - 1)
    for family, calls in ((AdamsBashforth, 1), (AdamsBashforthMoulton, 2)):
        f = Counted(decay)
        solution = solve(f, torch.ones(2), [0.0, 0.31, 0.5, 1.0], solver=family(order=order), step_size=0.02)
        assert solution.stats.nfe == f.calls == start + 49 * calls


@pytest.mark.parametrize("family", FAMILIES)
def test_adaptive_steps_need_fewer_calls_than_those_of_one_step_methods(family: type[Adams]) -> None:
    """What the family is for: a smooth problem to a tight tolerance."""
    options = {"rtol": 1e-7, "atol": 1e-7}
    span = [0.2, 4.0]
    ours = solve(TIMED.f, TIMED.exact(0.2), span, solver=family(order=6), **options)
    theirs = solve(TIMED.f, TIMED.exact(0.2), span, solver="bosh3", **options)
    assert ours.stats.nfe < theirs.stats.nfe / 3
    torch.testing.assert_close(ours.y1, TIMED.exact(4.0), rtol=0, atol=2e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_first_step_that_is_far_too_long_is_taken_again(family: type[Adams]) -> None:
    solution = solve(
        TIMED.f, TIMED.exact(0.2), [0.2, 3.0], solver=family(), control=PIDControl(first_step=2.0), rtol=1e-6, atol=1e-6
    )
    assert solution.stats.rejected > 0
    torch.testing.assert_close(solution.y1, TIMED.exact(3.0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("order", [1, 9, 2.5, True, "4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_orders_there_are_none_of(family: type[Adams], order: Any) -> None:
    with pytest.raises(InputError, match="the orders 2 to 8; give a whole number"):
        family(order=order)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_order_belongs_to_the_instance(family: type[Adams]) -> None:
    assert (family.order, family.error_order) == (4, 3)
    assert (family(order=6).order, family(order=6).error_order) == (6, 5)


@pytest.mark.parametrize("family", FAMILIES)
def test_complex_states(family: type[Adams]) -> None:
    y0 = torch.tensor([1 + 1j], dtype=torch.complex128)
    y1 = solve(lambda t, y: 1j * y, y0, [0.0, 2.0], solver=family(), rtol=1e-9, atol=1e-9).y1
    torch.testing.assert_close(y1, y0 * torch.exp(torch.tensor(2j)), rtol=0, atol=1e-7)
