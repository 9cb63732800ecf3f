"""Reversible methods: a trajectory taken back, step by step, to where it began."""

from __future__ import annotations

import itertools
from typing import Any

import optree
import pytest
import torch
from problems import AUTONOMOUS, DOUBLE, SOLVERS, TIMED, Counted, Reference, solver_class
from torch import Tensor

from odekit import solve
from odekit.core.field import Field
from odekit.core.reversible import ReversibleSolver
from odekit.core.state import TensorLayout

REVERSIBLE = [name for name in SOLVERS if issubclass(solver_class(name), ReversibleSolver)]
UNEVEN = [0.2, 0.3, 0.35, 0.6, 0.62, 0.9, 1.0, 1.3]


def spin(t: Tensor, y: Tensor) -> Tensor:
    return 1j * torch.cos(t) * y


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("times", [UNEVEN, UNEVEN[::-1]], ids=["forwards", "backwards"])
@pytest.mark.parametrize("problem", [AUTONOMOUS, TIMED], ids=str)
@pytest.mark.parametrize("name", REVERSIBLE)
def test_the_inverse_is_exact_to_rounding(
    name: str, problem: Reference, times: list[float], dtype: torch.dtype
) -> None:
    solver: Any = solver_class(name)()
    y0 = problem.exact(times[0]).to(dtype)
    f = Field(spin if dtype.is_complex else problem.f, (), TensorLayout(y0.shape), y0, (times[0], times[-1]))
    states, carries = [y0], [solver.init(f, times[0], y0)]
    for t0, t1 in itertools.pairwise(times):
        step = solver.step(f, t0, t1, states[-1], carries[-1])
        states.append(step.y1)
        carries.append(step.carry)
    y, carry = states[-1], carries[-1]
    allowed = 200 * torch.finfo(dtype).eps
    for i in range(len(times) - 2, -1, -1):
        y, carry = solver.reverse(f, times[i], times[i + 1], y, carry)
        torch.testing.assert_close(y, states[i], rtol=allowed, atol=allowed)
        for found, kept in zip(optree.tree_leaves(carry), optree.tree_leaves(carries[i]), strict=True):
            torch.testing.assert_close(found, kept, rtol=allowed, atol=allowed)


@pytest.mark.parametrize("name", REVERSIBLE)
def test_a_reversible_step_is_one_call(name: str) -> None:
    f = Counted(TIMED.f)
    solution = solve(f, TIMED.exact(0.2), [0.2, 0.55, 1.2], solver=name, step_size=0.1)
    assert solution.stats.nfe == f.calls == 11


def test_one_step_of_each_by_hand() -> None:
    """y' = t y from y(0) = 1: the first step of both, and the second, where they differ from other methods."""
    h = 0.5
    found = solve(lambda t, y: t * y, torch.ones(1, dtype=DOUBLE), [0.0, h, 2 * h], solver="alf", step_size=h).ys[:, 0]
    v1 = 2 * (h / 2)
    y1 = h / 2 * v1 + 1
    half = y1 + h / 2 * v1
    assert found.tolist() == pytest.approx([1.0, y1, y1 + h * 1.5 * h * half], rel=1e-15)
    ys = solve(lambda t, y: t * y, torch.ones(1, dtype=DOUBLE), [0.0, h, 2 * h], solver="reversible_heun", step_size=h)
    x1 = 1.0
    y1 = 1 + h / 2 * h * x1
    x2 = 2 * y1 - x1 + h * h * x1
    assert ys.ys[:, 0].tolist() == pytest.approx([1.0, y1, y1 + h / 2 * (h * x1 + 2 * h * x2)], rel=1e-15)
