"""Explicit steps whose rows have times of their own: every row gets what it would get alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from problems import DOUBLE, SOLVERS, solver_class
from torch import Tensor

from odekit.core.protocols import Step
from odekit.core.runge_kutta import ExplicitRungeKutta
from odekit.core.times import RowTimes, Time, host

EXPLICIT = [name for name in SOLVERS if issubclass(solver_class(name), ExplicitRungeKutta)]
STARTS, ENDS, THETA = np.array([0.0, 0.3, 1.1]), np.array([0.2, 0.25, 1.4]), np.array([0.1, 0.5, 0.85])
Y0 = torch.tensor([[1.0, 0.3], [0.2, -0.7], [-0.5, 1.2]], dtype=DOUBLE)


class Rows:
    """A vector field that takes any of the times there are."""

    def __init__(self, like: Tensor) -> None:
        self.like = like

    def __call__(self, t: Any, y: Tensor) -> Tensor:
        t = self.time(t)
        return torch.sin(3 * t) * y.roll(1, -1) - y * y + torch.cos(t)

    def times(self, values: Sequence[Time]) -> Sequence[Tensor]:
        return [self.time(value) for value in values]

    def time(self, value: Time) -> Tensor:
        if isinstance(value, RowTimes):
            return value.tensor(self.like)
        return torch.as_tensor(value, dtype=self.like.real.dtype)


def taken(name: str, t0: Time, t1: Time, y0: Tensor, take: str = "step") -> tuple[ExplicitRungeKutta, Step, Rows]:
    """The first step from there and, after it, a shorter one that begins with what it handed on."""
    solver, f = solver_class(name)(), Rows(y0)
    first = getattr(solver, take)(f, t0, t1, y0, solver.init(f, t0, y0))
    second = getattr(solver, take)(f, t1, t1 + 0.5 * (t1 - t0), first.y1, first.carry)
    return solver, second, f


def alone(name: str, y0: Tensor, take: str = "step") -> list[tuple[ExplicitRungeKutta, Step, Rows]]:
    return [taken(name, float(STARTS[b]), float(ENDS[b]), y0[b : b + 1], take) for b in range(3)]


def same(found: Tensor, expected: list[Tensor]) -> None:
    tol = 3e-6 if found.real.dtype == torch.float32 else 3e-14
    torch.testing.assert_close(found, torch.cat(expected), rtol=tol, atol=tol)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE, torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("name", EXPLICIT)
def test_rows_step_as_they_would_alone(name: str, dtype: torch.dtype) -> None:
    y0 = Y0.to(dtype) * (1 + 0.3j if dtype.is_complex else 1)
    assert solver_class(name).rowwise
    solver, step, f = taken(name, RowTimes(STARTS), RowTimes(ENDS), y0)
    steps = alone(name, y0)
    same(step.y1, [single.y1 for _, single, _ in steps])
    assert step.y1.dtype == dtype
    if solver.error_order is not None:
        assert step.error is not None
        assert step.error.dtype == dtype
        same(step.error, [single.error for _, single, _ in steps])
    _, advanced, _ = taken(name, RowTimes(STARTS), RowTimes(ENDS), y0, "advance")
    assert torch.equal(advanced.y1, step.y1)
    assert torch.equal(solver.replay(f, step.t0, step.t1, step.y0, None), step.y1)


@pytest.mark.parametrize("take", ["step", "advance"])
@pytest.mark.parametrize("name", EXPLICIT)
def test_dense_output_by_row(name: str, take: str) -> None:
    solver, step, f = taken(name, RowTimes(STARTS), RowTimes(ENDS), Y0, take)
    dense = solver.densify(f, step)
    values, slopes = [], []
    for b, (single, one, own) in enumerate(alone(name, Y0, take)):
        one = single.densify(own, one)
        values.append(single.interpolate(one, float(THETA[b])))
        slopes.append(single.derivative(one, float(THETA[b])))
        if one.carry is not None:
            torch.testing.assert_close(dense.carry[b : b + 1], one.carry, rtol=3e-14, atol=3e-14)
    for theta in (RowTimes(THETA), torch.tensor(THETA)[:, None]):
        same(solver.interpolate(dense, theta), values)
        torch.testing.assert_close(solver.derivative(dense, theta), torch.cat(slopes), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("times", [(0.2, 0.5), (RowTimes(STARTS), RowTimes(ENDS))], ids=["shared", "by row"])
@pytest.mark.parametrize("name", EXPLICIT)
def test_many_places_at_once(name: str, times: tuple[Time, Time]) -> None:
    solver, step, f = taken(name, *times, Y0)
    step = solver.densify(f, step)
    theta = torch.tensor([0.0, 0.3, 0.9, 1.0], dtype=DOUBLE)
    for method in (solver.interpolate, solver.derivative):
        at_once = method(step, theta[:, None, None])
        assert at_once.shape == (4, 3, 2)
        one_by_one = torch.stack([method(step, float(x)) for x in theta])
        torch.testing.assert_close(at_once, one_by_one, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(solver.interpolate(step, 1.0), step.y1, rtol=1e-11, atol=1e-11)
    assert torch.equal(solver.interpolate(step, 0.0), step.y0)


@pytest.mark.parametrize("name", EXPLICIT)
def test_times_of_rows_can_be_differentiated(name: str) -> None:
    ends = torch.tensor(ENDS)[:, None].requires_grad_()
    starts = torch.tensor(STARTS)[:, None]
    solver, step, f = taken(name, starts, ends, Y0)
    inside = solver.interpolate(solver.densify(f, step), torch.tensor(THETA)[:, None])
    (found,) = torch.autograd.grad((step.y1 + inside).sum(), ends)
    for b in range(3):
        end = torch.tensor(ENDS[b]).requires_grad_()
        single, one, own = taken(name, torch.tensor(STARTS[b]), end, Y0[b : b + 1])
        value = one.y1 + single.interpolate(single.densify(own, one), torch.tensor(THETA[b]))
        (expected,) = torch.autograd.grad(value.sum(), end)
        torch.testing.assert_close(found[b, 0], expected, rtol=1e-11, atol=1e-11)


def test_host_times_of_rows_are_arrays() -> None:
    _, step, _ = taken("dopri5", RowTimes(STARTS), RowTimes(ENDS), Y0)
    assert host(step.t0).tolist() == ENDS.tolist()
