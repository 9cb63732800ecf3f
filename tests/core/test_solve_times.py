"""Output times of every form and order, and the times that f gets to see."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from problems import ADAPTIVE, AUTONOMOUS, DOUBLE, GRADIENTS, SOLVERS, Counted, close, decay, solver_class

from odekit import Status, solve


@pytest.mark.parametrize("solver", SOLVERS)
def test_decreasing_times_undo_increasing_ones(solver: str) -> None:
    y0 = AUTONOMOUS.exact(0.0)
    options = {"solver": solver, "step_size": 0.002 if solver_class(solver).order == 1 else 0.02}
    there = solve(AUTONOMOUS.f, y0, [0.0, 0.3, 0.8], **options)
    back = solve(AUTONOMOUS.f, there.y1, [0.8, 0.3, 0.0], **options)
    close(back.ys, there.ys.flip(0), 1e-2 if solver_class(solver).order == 1 else 1e-4)
    assert back.t1 == 0.0


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("t", [[1.0], [1.0, 1.0], [2, 2, 2]], ids=str)
def test_a_span_of_nothing_gives_back_y0(t: list[float], gradient: str) -> None:
    y0 = torch.rand(3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    solution = solve(decay, y0, t, gradient=gradient)
    assert solution.status is Status.SUCCESS
    assert solution.stats.steps == 0
    assert torch.equal(solution.ys, y0.expand(len(t), 3))
    assert torch.equal(solution.y1, y0)
    (grad,) = torch.autograd.grad(solution.ys.sum() + solution.y1.sum(), y0)
    assert torch.equal(grad, torch.full((3,), len(t) + 1.0))


@pytest.mark.parametrize(
    "t",
    [
        [0, 1, 2],
        (0, 1.0, 2),
        range(3),
        np.arange(3),
        np.linspace(0, 2, 3, dtype=np.float32),
        torch.arange(3),
        torch.arange(3, dtype=torch.float32),
        torch.arange(3, dtype=torch.bfloat16),
    ],
    ids=["list", "tuple", "range", "numpy int", "numpy float32", "int tensor", "float32", "bfloat16"],
)
def test_times_come_in_many_forms(t: Any) -> None:
    solution = solve(decay, torch.ones(2, dtype=DOUBLE), t)
    close(solution.ys[:, 0], torch.arange(3).double().neg().exp())
    assert solution.t1 == 2.0


def test_repeated_times_repeat_the_answer() -> None:
    t = [0.0, 0.0, 0.4, 0.4, 0.4, 1.0, 1.0]
    for options in ({}, {"solver": "rk4", "step_size": 0.1}, {"solver": "kvaerno3"}):
        ys = solve(decay, torch.ones(1, dtype=DOUBLE), t, **options).ys[:, 0]
        close(ys, torch.tensor(t, dtype=DOUBLE).neg().exp())
        assert ys[0] == ys[1] == 1.0
        assert ys[2] == ys[3] == ys[4]
        assert ys[5] == ys[6]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_late_start(dtype: torch.dtype) -> None:
    t = torch.tensor([1e6, 1e6 + 1, 1e6 + 2], dtype=DOUBLE)
    solution = solve(decay, torch.ones(2, dtype=dtype), t)
    close(solution.ys[:, 0], [1.0, math.exp(-1), math.exp(-2)], 1e-4)
    assert solution.stats.steps < 40


def test_a_float64_state_is_told_float64_times_late_in_the_day() -> None:
    f = Counted(decay)
    solve(f, torch.ones(1, dtype=DOUBLE), [1e6, 1e6 + 1e-3], solver="rk4", step_size=1e-4)
    assert len(set(f.times)) == 21
    assert max(f.times) - min(f.times) == pytest.approx(1e-3, rel=1e-6)


def grids(dtype: torch.dtype) -> list[Any]:
    learnable = torch.tensor([0.0, 0.05, 0.1], dtype=DOUBLE, requires_grad=True)
    return [
        [0.0, 0.1],
        [0.0, 0.03, 0.7],
        [0.7, 0.5, 0.1],
        [-0.1, -0.7],
        torch.tensor([0.0, 0.1], dtype=dtype),
        learnable,
    ]


@pytest.mark.filterwarnings("ignore::odekit.errors.AdjointDriftWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_f_is_never_called_outside_the_span(solver: str, gradient: str, dtype: torch.dtype) -> None:
    for t in grids(dtype):
        values = torch.as_tensor(t, dtype=DOUBLE).tolist()
        low, high = min(values), max(values)
        for step_size in (0.09, *([None] if solver in ADAPTIVE else [])):
            f = Counted(decay)
            y0 = torch.ones(2, dtype=dtype, requires_grad=True)
            options = {"solver": solver, "step_size": step_size, "gradient": gradient, "rtol": 1e-3, "atol": 1e-4}
            solve(f, y0, t, **options).ys.sum().backward()
            assert low <= min(f.times) <= max(f.times) <= high
            assert f.calls > 0
