"""The options of a solve, each with its effect."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from problems import AUTONOMOUS, DOUBLE, GRADIENTS, close, decay, solver_class
from torch import Tensor

from odekit import FixedStep, PIDControl, solve


def test_arguments_are_passed_on_and_differentiated() -> None:
    rate = torch.tensor(0.5, dtype=DOUBLE, requires_grad=True)
    more = {"shift": torch.tensor(0.25, dtype=DOUBLE, requires_grad=True), "words": "untouched", "none": None}

    def f(t: Tensor, y: Tensor, rate: Tensor, more: dict[str, Any], power: int) -> Tensor:
        assert (more["words"], more["none"], power) == ("untouched", None, 1)
        return -(rate**power) * y + more["shift"]

    r, s, e = 0.5, 0.25, math.exp(-0.5)
    exact = s / r + (1 - s / r) * e
    by_rate = -s / r**2 + s / r**2 * e - (1 - s / r) * e
    by_shift = (1 - e) / r
    for gradient in GRADIENTS:
        y1 = solve(f, torch.ones(1, dtype=DOUBLE), [0.0, 1.0], args=(rate, more, 1), gradient=gradient).y1
        close(y1, [exact], 1e-6)
        grads = torch.autograd.grad(y1.sum(), [rate, more["shift"]])
        close(torch.stack(grads), [by_rate, by_shift], 1e-5)


@pytest.mark.parametrize(
    "solver",
    ["rk4", "odekit:rk4", solver_class("rk4"), solver_class("rk4")()],
    ids=["name", "in full", "class", "instance"],
)
def test_a_solver_is_a_name_a_class_or_an_instance(solver: Any) -> None:
    y0 = torch.ones(1, dtype=DOUBLE)
    expected = solve(decay, y0, [0.0, 1.0], solver="rk4", step_size=0.1).ys
    assert torch.equal(solve(decay, y0, [0.0, 1.0], solver=solver, step_size=0.1).ys, expected)


@pytest.mark.parametrize("control", [None, "i", "PI", "pid", PIDControl(), FixedStep(0.01)], ids=str)
def test_a_control_is_a_name_or_an_instance(control: Any) -> None:
    close(solve(decay, torch.ones(1, dtype=DOUBLE), [0.0, 1.0], control=control).y1, [math.exp(-1)])


def test_tolerances_may_differ_between_components() -> None:
    """Loosening the tolerance of the one component that is hard to follow saves most of the work."""

    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([-y[0], 30 * torch.cos(30 * t)])

    y0 = torch.tensor([1.0, 0.0], dtype=DOUBLE)
    strict = solve(f, y0, [0.0, 2.0], rtol=0.0, atol=1e-8)
    loose = solve(f, y0, [0.0, 2.0], rtol=0.0, atol=torch.tensor([1e-8, 1e-1], dtype=DOUBLE))
    assert loose.stats.nfe < strict.stats.nfe / 2
    close(loose.y1[0], math.exp(-2), 1e-6)


def test_tolerances_may_be_nested_as_the_state_is() -> None:
    y0 = {"a": torch.ones(2, 3, dtype=DOUBLE), "b": torch.ones(2, dtype=DOUBLE)}

    def f(t: Tensor, y: Any) -> Any:
        return {"a": -y["a"], "b": torch.cos(30 * t) * y["b"]}

    strict = solve(f, y0, [0.0, 2.0], rtol=1e-8, atol=1e-8)
    loose = solve(f, y0, [0.0, 2.0], rtol={"a": 1e-8, "b": 10.0}, atol={"a": torch.full((3,), 1e-8), "b": 10.0})
    assert loose.stats.nfe < strict.stats.nfe
    close(loose.y1["a"], torch.full((2, 3), math.exp(-2)), 1e-6)


def test_a_component_that_stays_at_zero_needs_no_absolute_tolerance() -> None:
    for solver in ("dopri5", "kvaerno3"):
        y1 = solve(decay, torch.tensor([0.0, 1.0], dtype=DOUBLE), [0.0, 1.0], solver=solver, atol=0.0, rtol=1e-6).y1
        close(y1, [0.0, math.exp(-1)])


def test_the_norm_is_a_choice() -> None:
    """One row in a hundred moves: the largest component asks for more than the root mean square."""
    y0 = torch.zeros(100, dtype=DOUBLE)
    y0[3] = 1.0
    cost = {}
    seen = []

    def first_ten(x: Tensor) -> Tensor:
        seen.append(x.shape)
        return x[:10].abs().amax()

    for norm in ("rms", "max", first_ten):
        solution = solve(lambda t, y: -y * 20, y0, [0.0, 1.0], norm=norm)
        cost[norm] = solution.stats.accepted
        close(solution.y1[3], math.exp(-20))
    assert cost["rms"] < cost["max"] == cost[first_ten]
    assert set(seen) == {torch.Size([100])}


def test_a_batch_shares_its_steps_and_its_rows_agree_with_rows_alone() -> None:
    y0 = torch.tensor([[1.0, 0.2], [0.3, 0.8], [2.0, 0.5]], dtype=DOUBLE)
    together = solve(AUTONOMOUS.f, y0, [0.0, 0.5, 2.0], rtol=1e-8, atol=1e-10)
    for row in range(3):
        alone = solve(AUTONOMOUS.f, y0[row], [0.0, 0.5, 2.0], rtol=1e-8, atol=1e-10)
        close(together.ys[:, row], alone.ys, 1e-7)


def test_a_module_is_a_vector_field() -> None:
    class Drive(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(2, 2)

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.linear(y) * t

    f = Drive()
    for gradient in GRADIENTS:
        f.zero_grad()
        solve(f, torch.ones(4, 2), [0.0, 1.0], gradient=gradient).y1.sum().backward()
        assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in f.parameters())
