"""Gradients with respect to the output times, the first and the last one included, against closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from problems import CAUTIOUS, DOUBLE, GRADIENTS, SOLVERS, TIMED, solver_class
from torch import Tensor

from odekit import solve

RATE = -0.8
TIGHT = {"rtol": 1e-9, "atol": 1e-11}


def linear(t: Tensor, y: Tensor) -> Tensor:
    return RATE * y


def times(*values: float) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE, requires_grad=True)


def by_t(t: Tensor, gradient: str, of: Any, f: Any = linear, **options: Any) -> list[float]:
    solution = solve(f, torch.tensor([2.0], dtype=DOUBLE), t, gradient=gradient, **(options or TIGHT))
    return torch.autograd.grad(of(solution).sum(), t)[0].tolist()


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("span", [(0.3, 1.5), (1.5, 0.3)], ids=["forwards", "backwards"])
def test_both_ends(gradient: str, span: tuple[float, float]) -> None:
    """y(t1) = 2 exp(a (t1 - t0)), whose derivatives are a y and -a y."""
    expected = RATE * 2 * math.exp(RATE * (span[1] - span[0]))
    assert by_t(times(*span), gradient, lambda s: s.y1) == pytest.approx([-expected, expected], rel=1e-6)
    assert by_t(times(*span), gradient, lambda s: s.ys[1]) == pytest.approx([-expected, expected], rel=1e-6)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_each_output_depends_on_its_own_time_and_on_the_first(gradient: str) -> None:
    values = [0.0, 0.2, 0.9, 1.4]
    for k in (1, 2, 3):
        slope = RATE * 2 * math.exp(RATE * values[k])
        expected = [-slope, 0.0, 0.0, 0.0]
        expected[k] += slope
        found = by_t(times(*values), gradient, lambda s, k=k: s.ys[k])
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert by_t(times(*values), gradient, lambda s: 0 * s.y1 + s.ys[0]) == pytest.approx([0.0] * 4, abs=1e-12)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_times_that_coincide_keep_their_own_derivatives(gradient: str) -> None:
    values = [0.5, 0.5, 1.0, 1.0, 2.0, 2.0]
    slopes = [RATE * 2 * math.exp(RATE * (t - 0.5)) for t in values]
    for k in range(1, 6):
        expected = [-slopes[k], *[0.0] * 5]
        expected[k] += slopes[k]
        found = by_t(times(*values), gradient, lambda s, k=k: s.ys[k])
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-6), k


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_where_the_field_depends_on_time(gradient: str) -> None:
    """y' = f(t, y) from (t0, y0): ∂y(t1)/∂t1 = f(t1, y1), and ∂y(t1)/∂t0 = -∂y(t1)/∂y0 f(t0, y0)."""
    t0, t1 = 0.2, 1.6
    y0 = TIMED.exact(t0).requires_grad_()
    t = times(t0, t1)
    y1 = solve(TIMED.f, y0, t, gradient=gradient, **TIGHT).y1
    for i in range(2):
        by_y0, by_t = torch.autograd.grad(y1[i], [y0, t], retain_graph=True)
        start = TIMED.f(torch.tensor(t0, dtype=DOUBLE), y0.detach())
        end = TIMED.f(torch.tensor(t1, dtype=DOUBLE), y1.detach())
        torch.testing.assert_close(by_t, torch.stack([-(by_y0 @ start), end[i]]), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver(solver: str, gradient: str) -> None:
    """To the accuracy of the method; an output in the middle is among those differentiated."""
    options: dict[str, Any] = {"solver": solver, "step_size": {1: 0.002, 2: 0.02}.get(solver_class(solver).order, 0.05)}
    found = by_t(times(0.0, 0.47, 1.0), gradient, lambda s: s.ys[1] + 3 * s.y1, **options)
    middle, end = RATE * 2 * math.exp(RATE * 0.47), 3 * RATE * 2 * math.exp(RATE)
    assert found == pytest.approx([-middle - end, middle, end], rel=4e-3)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("values", [(0.5, 0.5), (0.5, 0.5, 0.5)], ids=str)
def test_a_span_of_nothing_still_has_a_derivative(values: tuple[float, ...], gradient: str) -> None:
    """A learnable end time that begins at t0 must be able to leave it."""
    slope = RATE * 2
    assert by_t(times(*values), gradient, lambda s: s.ys[1]) == pytest.approx([-slope, slope, 0.0][: len(values)])
    found = by_t(times(*values), gradient, lambda s: s.y1)
    assert found == pytest.approx([-slope, *[0.0] * (len(values) - 2), slope])


def test_a_single_time_has_none() -> None:
    for gradient in GRADIENTS:
        t = times(0.5)
        y0 = torch.tensor([2.0], dtype=DOUBLE, requires_grad=True)
        solution = solve(linear, y0, t, gradient=gradient)
        by_y0, by_t = torch.autograd.grad(solution.ys.sum(), [y0, t], allow_unused=True)
        assert by_y0.tolist() == [1.0]
        assert by_t is None or by_t.tolist() == [0.0]


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("solver", CAUTIOUS)
def test_adaptive_steps(solver: str, gradient: str) -> None:
    found = by_t(times(0.0, 0.47, 1.0), gradient, lambda s: s.ys[1] + 3 * s.y1, solver=solver, rtol=1e-5, atol=1e-6)
    middle, end = RATE * 2 * math.exp(RATE * 0.47), 3 * RATE * 2 * math.exp(RATE)
    assert found == pytest.approx([-middle - end, middle, end], rel=2e-3 if solver_class(solver).order > 1 else 1e-2)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("state", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("time", [torch.float32, torch.float64], ids=str)
def test_times_in_another_dtype_than_the_state(time: torch.dtype, state: torch.dtype, gradient: str) -> None:
    t = torch.tensor([0.0, 0.1, 0.7], dtype=time, requires_grad=True)
    solution = solve(linear, torch.tensor([2.0], dtype=state), t, gradient=gradient)
    assert solution.ys.dtype == state
    (grad,) = torch.autograd.grad(solution.y1.sum() + solution.ys[1].sum(), t)
    assert grad.dtype == time
    early, late = (RATE * 2 * math.exp(RATE * value) for value in (0.1, 0.7))
    assert grad.tolist() == pytest.approx([-early - late, early, late], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_an_end_time_that_f_uses_as_well(gradient: str) -> None:
    """y' = y/T: y(T) = y0 e whatever T is."""
    end = torch.tensor(1.7, dtype=DOUBLE, requires_grad=True)
    t = torch.stack([torch.zeros((), dtype=DOUBLE), end])
    y1 = solve(lambda t, y: y / end, torch.ones(1, dtype=DOUBLE), t, gradient=gradient, **TIGHT).y1
    assert float(y1.detach()) == pytest.approx(math.e)
    assert float(torch.autograd.grad(y1.sum(), end)[0]) == pytest.approx(0.0, abs=1e-6)
