"""Backward differentiation: every order at fixed steps, its past on other grids, and its choice of order."""

from __future__ import annotations

import pytest
import torch
from problems import AUTONOMOUS, DOUBLE, TIMED, Reference, slope, solver_class
from torch import Tensor
from torch.autograd import gradcheck

from odekit import solve
from odekit.core.differences import advanced, evaluated, respaced, sampled
from odekit.core.nonlinear import Newton
from odekit.errors import InputError

BDF = solver_class("bdf")


def cubic(x: float) -> Tensor:
    return torch.tensor([1 + x - 2 * x**2 + 0.5 * x**3], dtype=DOUBLE)


def test_differences_of_a_polynomial_are_exact_on_every_grid() -> None:
    """Those of a cubic in x = t - t1, at spacing 1 and respaced to 0.3, give the cubic everywhere."""
    found = sampled(lambda theta: cubic(theta - 1), 3, 5)
    for factor in (1.0, 0.3, 2.5):
        other = respaced(found, 3, factor)
        for theta in (-1.0, 0.25, 1.0):
            value = evaluated(cubic(0.0), other, 3, theta)
            torch.testing.assert_close(value, cubic((theta - 1) * factor))


def test_one_point_later() -> None:
    """The next value of the same cubic has no difference of order four."""
    found = sampled(lambda theta: cubic(theta - 1), 3, 5)
    later = sampled(lambda theta: cubic(theta), 3, 5)
    torch.testing.assert_close(advanced(found, 3, torch.zeros(1, dtype=DOUBLE))[:3], later[:3])


@pytest.mark.parametrize("problem", [AUTONOMOUS, TIMED], ids=str)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_every_order_shows_from_the_first_step_on(order: int, problem: Reference) -> None:
    counts = (40, 80, 160)
    errors = []
    for n in counts:
        y1 = solve(problem.f, problem.exact(0.2), [0.2, 1.7], solver=BDF(max_order=order), step_size=1.5 / n).y1
        errors.append(float((y1 - problem.exact(1.7)).abs().max()))
    assert slope([1 / n for n in counts], errors) == pytest.approx(order, abs=0.3)


def test_forced_stops_and_short_steps_keep_the_past() -> None:
    y0 = TIMED.exact(0.2)
    options = {"solver": "bdf", "rtol": 1e-8, "atol": 1e-10}
    free = solve(TIMED.f, y0, [0.2, 5.0], **options)
    forced = solve(TIMED.f, y0, [0.2, 5.0], step_times=[0.9, 0.9001, 2.0], **options)
    torch.testing.assert_close(forced.y1, TIMED.exact(5.0), rtol=0, atol=1e-6)
    assert forced.stats.steps < free.stats.steps + 60


def test_the_robertson_problem_over_eleven_decades_costs_little() -> None:
    def f(t: Tensor, y: Tensor) -> Tensor:
        a, b, c = y.unbind(-1)
        slow, fast, back = 0.04 * a, 3e7 * b * b, 1e4 * b * c
        return torch.stack([back - slow, slow - back - fast, fast], -1)

    y0 = torch.tensor([1.0, 0.0, 0.0], dtype=DOUBLE)
    solution = solve(f, y0, [0.0, 1e11], solver="bdf", rtol=1e-6, atol=1e-10)
    expected = [0.2083340149701255e-7, 0.8333360770334713e-13, 0.9999999791665050]  # Mazzia & Magherini 2008, ROBER
    torch.testing.assert_close(solution.y1[2], torch.tensor(expected[2], dtype=DOUBLE), rtol=1e-8, atol=0)
    torch.testing.assert_close(solution.y1[0], torch.tensor(expected[0], dtype=DOUBLE), rtol=1e-2, atol=0)
    assert solution.stats.nfe < 2500
    assert solution.stats.jacobians < 60


@pytest.mark.parametrize("gradient", ["direct", "checkpointed"])
def test_exact_gradients_flow_through_the_past(gradient: str) -> None:
    chosen = BDF(newton=Newton(fraction=1e-4, max_iterations=30))

    def end(y0: Tensor, weight: Tensor) -> Tensor:
        return solve(
            lambda t, y: torch.tanh(y @ weight) - t * y**2, y0, [0, 0.3, 1.0], solver=chosen, gradient=gradient,
            step_size=0.1,
        ).ys  # fmt: skip

    generator = torch.Generator().manual_seed(0)
    y0 = torch.rand(2, dtype=DOUBLE, generator=generator).requires_grad_()
    weight = torch.randn(2, 2, dtype=DOUBLE, generator=generator).requires_grad_()
    assert gradcheck(end, (y0, weight), rtol=1e-4, atol=1e-6)


def test_an_order_that_is_not_stable_is_refused() -> None:
    with pytest.raises(InputError, match="max_order=6: expected a whole number from 1 to 5"):
        BDF(max_order=6)
