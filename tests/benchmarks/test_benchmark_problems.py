"""The problem sets: their right-hand sides, their answers, and what counts as a digit."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.measure import scipys
from benchmarks.problems import NONSTIFF, STIFF, Problem
from odekit import solve

ALL = [*NONSTIFF.values(), *STIFF.values()]
QUICK = ["rober-40", "hires", "orego", "pollu", "e5-short"]


def double(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("problem", ALL, ids=str)
def test_leading_axes_are_a_batch(problem: Problem) -> None:
    generator = torch.Generator().manual_seed(0)
    factors = 1 + 0.01 * torch.rand(2, 3, 1, dtype=torch.float64, generator=generator)
    y = factors * problem.y0
    t = double(problem.span[0])
    alone = torch.stack([problem.f(t, row) for row in y.flatten(0, 1)]).reshape(y.shape)
    torch.testing.assert_close(problem.f(t, y), alone, rtol=1e-13, atol=1e-13)
    assert problem.y0.shape == problem.reference.shape == problem.floor.shape


@pytest.mark.parametrize("problem", NONSTIFF.values(), ids=str)
def test_nonstiff_answers(problem: Problem) -> None:
    """A wrong constant would show long before; the two named problems amplify errors."""
    y = solve(problem.f, problem.y0, problem.times, solver="tsit5", rtol=1e-7, atol=problem.atol(1e-7)).y1
    assert problem.digits(y) > (1.5 if problem.name in ("arenstorf", "pleiades") else 4)


@pytest.mark.parametrize("name", QUICK)
def test_stiff_answers(name: str) -> None:
    """By LSODA, while the stored answers are by Radau methods."""
    assert scipys(STIFF[name], "LSODA", 1e-8).digits > 4.5


def test_digits_are_those_of_the_worst_component_above_its_floor() -> None:
    problem = Problem("two", lambda t, y: y, (1, 1), (0.0, 1.0), (10.0, 0.0), "by hand", floor=(1.0, 1e-3))
    assert problem.digits(torch.tensor([10.1, 0.0], dtype=torch.float64)) == pytest.approx(2)
    assert problem.digits(torch.tensor([10.1, 1e-4], dtype=torch.float64)) == pytest.approx(1)
    assert problem.digits(problem.reference) == 16
    assert problem.digits(torch.tensor([math.nan, 0.0], dtype=torch.float64)) == -math.inf
    assert problem.atol(1e-6).tolist() == [1e-6, 1e-9]
