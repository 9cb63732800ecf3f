"""Whatever is solved, by whichever solver: linear systems come out as their matrix exponential says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import solver_class
from strategies import NARROW, Linear, few, linear_systems, many, solvers, steps

from odekit import Solution, solve


def allowed(name: str, problem: Linear, rtol: float) -> float:
    """A generous bound on the error in units of the largest state."""
    rounding = 2e-4 if problem.y0.dtype in NARROW else 1e-9
    if solver_class(name).error_order is not None:
        return (1000 if name == "fehlberg2" else 100) * rtol + rounding  # the former's estimate is lax
    return 20 * (2 / 64) ** solver_class(name).order + rounding


def check_ends(name: str, problem: Linear, rtol: float) -> None:
    found = solve(problem.f, problem.y0, problem.span, solver=name, **steps(name, problem.span, rtol))
    expected = problem.exact(problem.span[1])
    assert (found.ys.dtype, found.ys.shape) == (problem.y0.dtype, (2, *problem.y0.shape))
    error = float((found.y1 - expected).abs().max())
    size = max(1.0, float(problem.y0.abs().max()), float(expected.abs().max()))
    assert error <= allowed(name, problem, rtol) * size


def check_rows(name: str, problem: Linear, rtol: float) -> None:
    """A solve by rows gives every row what it gets alone."""
    y0 = problem.y0.expand(2, *problem.y0.shape) * torch.tensor([1.0, 0.25]).reshape(2, *[1] * problem.y0.ndim)
    y0 = y0.to(problem.y0.dtype).contiguous()
    options = steps(name, problem.span, rtol)
    together = solve(problem.f, y0, problem.span, solver=name, batch="rows", **options)
    alone = torch.stack([solve(problem.f, row[None], problem.span, solver=name, **options).ys[:, 0] for row in y0], 1)
    tol = 1e-4 if y0.dtype in NARROW else 1e-9
    torch.testing.assert_close(together.ys, alone, rtol=tol, atol=tol)


def check_inside(name: str, problem: Linear, rtol: float, theta: float) -> None:
    """The dense output is the solution too, and an event finds the time of a state on it."""
    t0, t1 = problem.span
    found = solve(problem.f, problem.y0, problem.span, solver=name, dense=True, **steps(name, problem.span, rtol))
    t = t0 + theta * (t1 - t0)
    size = max(1.0, *(float(problem.exact(s).abs().max()) for s in (t0, t1)))
    error = float((found.interpolate(t) - problem.exact(t)).abs().max())
    assert error <= (100 * allowed(name, problem, rtol) + 1e-3) * size


def check_every_step(name: str, problem: Linear, rtol: float) -> None:
    found: Solution = solve(
        problem.f, problem.y0, problem.span, solver=name, save="steps", **steps(name, problem.span, rtol)
    )
    direction = problem.span[1] - problem.span[0]
    assert len(found.ts) == found.stats.accepted + 1
    assert bool(((found.ts[1:] - found.ts[:-1]) * direction > 0).all())
    torch.testing.assert_close(found.ys[-1], found.y1)


CHECKS = {"ends": check_ends, "rows": check_rows, "every step": check_every_step}
tolerances = st.sampled_from([1e-2, 1e-3, 1e-4])


@few
@given(solvers, linear_systems(), tolerances)
def test_the_end_is_that_of_the_matrix_exponential(name: str, problem: Linear, rtol: float) -> None:
    check_ends(name, problem, rtol)


@few
@given(solvers, linear_systems(), tolerances)
def test_rows_are_what_each_is_alone(name: str, problem: Linear, rtol: float) -> None:
    check_rows(name, problem, rtol)


@few
@given(solvers, linear_systems(), tolerances, st.floats(0, 1))
def test_the_inside_of_steps(name: str, problem: Linear, rtol: float, theta: float) -> None:
    check_inside(name, problem, rtol, theta)


@few
@given(solvers, linear_systems(), tolerances)
def test_every_step_is_saved(name: str, problem: Linear, rtol: float) -> None:
    check_every_step(name, problem, rtol)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
@many
@given(name=solvers, problem=linear_systems(), rtol=tolerances)
def test_more_of_them(check: str, name: str, problem: Linear, rtol: float) -> None:
    CHECKS[check](name, problem, rtol)
