"""How a solve fails: with a status, in bounded time, and with what was reached."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from problems import ADAPTIVE, DOUBLE, GRADIENTS, SOLVERS, close, decay, solver_class
from torch import Tensor

from odekit import FixedStep, Status, solve
from odekit.errors import SolveError

CONTINUOUS = ("adjoint", "interpolated")
"""Gradient methods that follow the ODE instead of the computed numbers."""


@pytest.mark.filterwarnings("ignore::odekit.errors.AdjointDriftWarning")
@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("since", [0.0, 0.55])
def test_nan_from_f_is_a_status(solver: str, gradient: str, since: float) -> None:
    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t >= since, math.nan, -1.0) * y

    y0 = torch.ones(2, requires_grad=True)
    size = {"rtol": 1e-3, "atol": 1e-4} if solver in ADAPTIVE else {"step_size": 0.1}
    options = {"solver": solver, "gradient": gradient, **size}
    solution = solve(f, y0, [0.0, 0.25, 1.0], throw=False, **options)
    assert solution.status in (Status.NON_FINITE, Status.NEWTON_DIVERGED)
    assert solution.stats.steps < 200
    lucky = solver == "gauss4"  # whose nodes lie inside, so that one step reaches beyond what f can tell
    assert solution.t1 < (0.6 if lucky else 0.56)
    assert bool(solution.y1.isfinite().all())
    assert bool(solution.ys[2].isnan().all())
    if since > 0.5 and not lucky:
        close(solution.ys[1], [math.exp(-0.25)] * 2, 0.03)
        (grad,) = torch.autograd.grad(solution.ys[1].sum(), y0)
        close(grad, solution.ys[1].detach(), 0.03 if gradient in CONTINUOUS else 1e-3 if solver == "bdf" else 1e-5)
    with pytest.raises(SolveError) as caught:
        solve(f, y0, [0.0, 0.25, 1.0], **options)
    assert caught.value.status is solution.status
    assert torch.equal(caught.value.solution.ys.isnan(), solution.ys.isnan())


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solution_that_blows_up_is_a_status(solver: str) -> None:
    """y' = y² from 1 has a pole at t = 1."""
    options = {"rtol": 1e-3, "atol": 1e-3} if solver in ADAPTIVE else {"step_size": 0.002}
    y0 = torch.ones(1, dtype=DOUBLE)
    solution = solve(lambda t, y: y**2, y0, [0.0, 0.5, 2.0], solver=solver, throw=False, **options)
    assert solution.status in (Status.STEP_UNDERFLOW, Status.NON_FINITE, Status.NEWTON_DIVERGED)
    assert solution.stats.steps < 2000
    close_by = solver_class(solver).order > 1 and solver != "fehlberg2"  # whose estimate is lax
    assert solution.t1 < (1.05 if close_by else 1.1)
    assert float(solution.ys[1]) == pytest.approx(2.0, rel=1e-2 if close_by else 0.1)
    assert math.isnan(solution.ys[2])
    assert math.isfinite(solution.y1)


def test_a_number_as_the_state_that_blows_up_under_fixed_steps() -> None:
    y0 = torch.tensor(1.0, dtype=DOUBLE)
    solution = solve(lambda t, y: y**2, y0, [0.0, 0.5, 5.0], solver="euler", step_size=0.05, throw=False)
    assert solution.status is Status.NON_FINITE
    assert math.isfinite(solution.y1)


def test_what_a_failed_solve_gives_back_is_finite() -> None:
    """The first fixed step is taken before its NaN is read; the second tells of it."""
    y0 = torch.ones(2, dtype=DOUBLE)
    solution = solve(lambda t, y: y * math.nan, y0, [0.0, 1.0], solver="bdf", step_size=0.1, throw=False)
    assert solution.status is Status.NON_FINITE
    assert (solution.t1, solution.y1.tolist()) == (0.0, [1.0, 1.0])


def test_the_message_of_a_failure_says_when_why_at_what_cost_and_what_to_try() -> None:
    with pytest.raises(SolveError) as caught:
        solve(lambda t, y: y**2, torch.ones(1, dtype=DOUBLE), [0.0, 2.0])
    message, stats = str(caught.value), caught.value.solution.stats
    assert "solver 'dopri5' stopped at t = 1" in message
    assert str(caught.value.status) in message
    assert f"{stats.nfe} evaluations of f, {stats.accepted} steps accepted, {stats.rejected} rejected" in message
    assert "singularity" in message
    assert "throw=False" in message


@pytest.mark.parametrize("y0", [math.nan, math.inf])
@pytest.mark.parametrize("options", [{}, {"solver": "rk4", "step_size": 0.1}, {"solver": "kvaerno3"}], ids=str)
def test_an_initial_state_that_is_not_finite_is_named_as_the_cause(y0: float, options: dict[str, Any]) -> None:
    with pytest.raises(SolveError, match="y0 itself holds NaN or infinite values"):
        solve(decay, torch.tensor([1.0, y0]), [0.0, 1.0], **options)


@pytest.mark.parametrize("control", ["i", FixedStep(0.1)], ids=str)
def test_an_overflow_is_not_a_success(control: Any) -> None:
    """The slope is finite, and so is every error estimate, but the state is not."""
    y0 = torch.full((1,), 3e38)
    solution = solve(lambda t, y: torch.full_like(y, 1e38), y0, [0.0, 0.1, 1.0], control=control, throw=False)
    assert solution.status is Status.NON_FINITE
    assert bool(solution.ys[1].isfinite().all())
    assert bool(solution.y1.isfinite().all())


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_max_steps_is_for_the_whole_solve(gradient: str) -> None:
    t = torch.linspace(0, 1, 11, dtype=DOUBLE)
    y0 = torch.ones(1, dtype=DOUBLE, requires_grad=True)
    options = {"solver": "rk4", "step_size": 0.05, "gradient": gradient}
    solution = solve(decay, y0, t, max_steps=10, throw=False, **options)
    assert solution.status is Status.MAX_STEPS
    assert solution.stats.steps == 10
    assert solution.t1 == pytest.approx(0.5)
    close(solution.y1, [math.exp(-0.5)])
    close(solution.ys[:6, 0], t[:6].neg().exp())
    assert bool(solution.ys[6:].isnan().all())
    (grad,) = torch.autograd.grad(solution.ys[:6].sum() + solution.y1.sum(), y0)
    close(grad, [float(t[:6].neg().exp().sum()) + math.exp(-0.5)])
    with pytest.raises(SolveError, match=r"used up max_steps before the last output time.*Raise max_steps="):
        solve(decay, y0, t, max_steps=10, **options)
    assert solve(decay, y0, t, max_steps=20, **options).status is Status.SUCCESS
