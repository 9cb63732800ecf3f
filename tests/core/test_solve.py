"""The front door: what comes out, shaped, nested and typed as what went in."""

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any

import optree
import pytest
import torch
from problems import DOUBLE, close, decay
from torch import Tensor

from odekit import Solution, Status, solve

Pair = namedtuple("Pair", ["position", "speed"])


def swing(t: Tensor, y: Any) -> Any:
    return Pair(y.speed, -y.position)


@pytest.mark.parametrize("shape", [(), (3,), (4, 3), (2, 3, 4), (0,), (0, 3), (3, 0)], ids=str)
@pytest.mark.parametrize("solver", ["dopri5", "rk4", "kvaerno3"])
def test_a_tensor_state_of_any_shape(shape: tuple[int, ...], solver: str) -> None:
    y0 = torch.rand(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    solution = solve(decay, y0, [0.0, 0.5, 1.0], solver=solver, step_size=0.05)
    assert isinstance(solution, Solution)
    assert solution.ys.shape == (3, *shape)
    assert solution.y1.shape == shape
    assert solution.ts.tolist() == [0.0, 0.5, 1.0]
    assert (solution.status, solution.t1) == (Status.SUCCESS, 1.0)
    assert torch.equal(solution.ys[0], y0)
    assert torch.equal(solution.ys[-1], solution.y1)
    close(solution.ys[1], y0 * math.exp(-0.5), 1e-4)
    close(solution.y1, y0 * math.exp(-1.0), 1e-4)


@pytest.mark.parametrize("rows", [(2, 2), (2, 1)], ids=["same first axis", "different first axes"])
@pytest.mark.parametrize("solver", ["dopri5", "kvaerno3"])
@pytest.mark.parametrize(
    "nest",
    [
        lambda a, b: (a, b),
        lambda a, b: [a, b],
        lambda a, b: {"b": b, "a": a},
        Pair,
        lambda a, b: {"x": (a, [b]), "y": Pair(b, a)},
    ],
    ids=["tuple", "list", "dict", "namedtuple", "deep"],
)
def test_a_nested_state_comes_back_as_it_was_nested(nest: Any, solver: str, rows: tuple[int, int]) -> None:
    a, b = torch.full((rows[0], 3), 2.0, dtype=DOUBLE), torch.full((rows[1],), 5.0, dtype=DOUBLE)
    y0 = nest(a, b)

    def f(t: Tensor, y: Any) -> Any:
        assert optree.tree_structure(y) == optree.tree_structure(y0)
        return optree.tree_map(torch.neg, y)

    solution = solve(f, y0, [0.0, 1.0], solver=solver)
    for found, times in ((solution.ys, 2), (solution.y1, None)):
        assert type(found) is type(y0)
        leaves, leaves0 = optree.tree_leaves(found), optree.tree_leaves(y0)
        for leaf, leaf0 in zip(leaves, leaves0, strict=True):
            assert leaf.shape == (leaf0.shape if times is None else (times, *leaf0.shape))
            close(leaf if times is None else leaf[-1], leaf0 * math.exp(-1))


def test_the_parts_of_a_nested_state_may_be_coupled() -> None:
    solution = solve(swing, Pair(torch.ones(3).double(), torch.zeros(3).double()), [0.0, math.pi / 2])
    close(solution.y1.position, torch.zeros(3))
    close(solution.y1.speed, -torch.ones(3))


@pytest.mark.parametrize("nest", [lambda a, b: (a, b), lambda a, b: {"a": a, "b": b}], ids=["tuple", "dict"])
def test_an_empty_batch_of_a_nested_state(nest: Any) -> None:
    y0 = nest(torch.zeros(0, 3), torch.zeros(0))
    solution = solve(lambda t, y: y, y0, [0.0, 1.0])
    shapes = [tuple(leaf.shape) for leaf in optree.tree_leaves(solution.ys)]
    assert shapes == [(2, 0, 3), (2, 0)]


@pytest.mark.parametrize("solver", ["dopri5", "rk4", "kvaerno3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128], ids=str)
def test_the_state_keeps_its_dtype_and_time_is_real(dtype: torch.dtype, solver: str) -> None:
    rate = torch.tensor(-0.5 + 2j if dtype.is_complex else -0.5, dtype=dtype)
    seen = set()

    def f(t: Tensor, y: Tensor) -> Tensor:
        seen.add((t.dtype, t.shape, y.dtype))
        return rate * y

    y0 = torch.tensor([1.0, 2.0], dtype=dtype)
    solution = solve(f, y0, [0.0, 0.3, 1.0], solver=solver, step_size=None if solver == "dopri5" else 0.02)
    assert seen == {(dtype.to_real(), torch.Size([]), dtype)}
    assert solution.ys.dtype == solution.y1.dtype == dtype
    close(solution.y1, y0 * rate.exp(), 1e-4)
