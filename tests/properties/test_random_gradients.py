"""Gradients of random linear systems, by every registered method, are those of the matrix exponential."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import SOLVERS, solver_class
from strategies import NARROW, Linear, few, linear_systems, many
from torch import Tensor

from odekit import solve
from odekit.errors import GradientError, OptionError
from odekit.registry import catalog

METHODS = sorted({entry.name for entry in catalog().entries("gradient")} - {"implicit"})
"""``implicit`` is for steady states, which these systems do not reach."""
ACCURATE = [name for name in SOLVERS if solver_class(name).order >= 3 and solver_class(name).error_order is not None]


def loss(y: Tensor) -> Tensor:
    return (y.abs().square() * torch.linspace(0.5, 1, y.numel()).reshape(y.shape)).sum()


def expected(problem: Linear) -> list[Tensor]:
    """dL/d(y0, matrix, t0, t1)."""
    y0, matrix = (x.detach().clone().requires_grad_() for x in (problem.y0, problem.matrix))
    t = torch.tensor(problem.span, dtype=torch.float64, requires_grad=True)
    end = y0 @ torch.linalg.matrix_exp(matrix * (t[1] - t[0]).to(y0.real.dtype)).mT
    return list(torch.autograd.grad(loss(end), [y0, matrix, t]))


def check(method: str, solver: str, problem: Linear, batch: str) -> None:
    narrow = problem.y0.dtype in NARROW
    rtol = 1e-4 if narrow else 1e-7
    y0, matrix = (x.detach().clone().requires_grad_() for x in (problem.y0, problem.matrix))
    if batch == "rows" and y0.ndim < 2:
        batch = "shared"
    t = torch.tensor(problem.span, dtype=torch.float64, requires_grad=True)
    try:
        y1 = solve(
            lambda t, y, a: y @ a.mT, y0, t, args=(matrix,), solver=solver, gradient=method, rtol=rtol, atol=rtol,
            batch=batch,
        ).y1  # fmt: skip
    except (GradientError, OptionError):  # a combination that is refused at the door
        return
    found = torch.autograd.grad(loss(y1), [y0, matrix, t])
    truth = expected(problem)
    size = max(1.0, *(float(x.abs().max()) for x in truth))
    for x, y in zip(found, truth, strict=True):
        assert x.dtype == y.dtype
        assert float((x - y).abs().max()) <= (5e-2 if narrow else 1e-4) * size


@few
@given(st.sampled_from(METHODS), st.sampled_from(["dopri5", "bosh3"]), linear_systems())
def test_gradients_are_those_of_the_matrix_exponential(method: str, solver: str, problem: Linear) -> None:
    check(method, solver, problem, "shared")


@pytest.mark.slow
@many
@given(st.sampled_from(METHODS), st.sampled_from(ACCURATE), linear_systems(), st.sampled_from(["shared", "rows"]))
def test_gradients_are_those_of_the_matrix_exponential_by_more_solvers(
    method: str, solver: str, problem: Linear, batch: str
) -> None:
    check(method, solver, problem, batch)
