"""The rule that picks a gradient method, and what it measures."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from problems import DOUBLE, close, decay
from torch import Tensor, nn

import odekit
from odekit.errors import InputError
from odekit.gradients import Auto, Checkpointed, Direct, memory
from odekit.gradients.auto import Estimate

CPU = torch.device("cpu")
Y0 = torch.linspace(-1.0, 1.0, 12, dtype=DOUBLE).reshape(3, 4)


def bent(t: Tensor, y: Tensor) -> Tensor:
    return torch.tanh(3 * y) - y * t


def picked(limit: float | None = None, f: Any = bent, **options: Any) -> Any:
    y0 = Y0.clone().requires_grad_()
    solution = odekit.solve(f, y0, [0.0, 1.0], gradient=Auto(limit), **options)
    (grad,) = torch.autograd.grad(solution.y1.square().sum(), y0)
    y0 = Y0.clone().requires_grad_()
    options.pop("gradient", None)
    (expected,) = torch.autograd.grad(odekit.solve(f, y0, [0.0, 1.0], **options).y1.square().sum(), y0)
    close(grad, expected, 1e-10)
    return solution.stats


@pytest.mark.parametrize("batch", ["shared", "rows"])
@pytest.mark.parametrize(
    ("limit", "solver", "name", "why"),
    [
        (None, "rk4", "direct", "activations are less than half"),
        (1e9, "rk4", "direct", "20 steps × 5 stages"),
        (2e4, "rk4", "checkpointed", "of activations are more than half"),
        (1e9, "implicit_midpoint", "checkpointed", "an implicit solver"),
    ],
)
def test_each_line_of_the_rule(batch, limit, solver, name, why):
    stats = picked(limit, solver=solver, step_size=0.05, batch=batch)
    assert stats.gradient == name
    assert why in stats.why


def test_a_budget_where_one_state_a_step_is_too_much():
    stats = picked(2e3, solver="rk4", step_size=0.05)
    assert stats.gradient == "checkpointed"
    assert stats.why == "a state for each of 20 steps × 96 B is more than half of the 1.95 KiB allowed: 10 are kept"
    method, _ = Auto(2e3).pick(Estimate(steps=20, stages=4, call=1000, state=96), implicit=True, device=CPU)
    assert method == Checkpointed(budget=10)
    assert Auto(1.0).pick(Estimate(steps=20, stages=4, call=1000, state=96), False, CPU)[0] == Checkpointed(budget=1)


def test_transforms_and_solves_without_gradients_are_direct():
    stats = []

    def one(y0: Tensor) -> Tensor:
        solution = odekit.solve(bent, y0, [0.0, 1.0], gradient=Auto(1.0))
        stats.append(solution.stats)
        return solution.y1.sum()

    torch.func.grad(one)(Y0)
    with torch.no_grad():
        one(Y0)
    assert [each.gradient for each in stats] == ["direct", "direct"]
    assert "torch.func" in stats[0].why
    assert "switched off" in stats[1].why


def test_the_evaluation_that_is_measured_counts():
    chosen = picked(1e9, solver="rk4", step_size=0.5)
    direct = odekit.solve(bent, Y0, [0.0, 1.0], solver="rk4", step_size=0.5).stats
    assert chosen.nfe == direct.nfe + 1
    assert (direct.gradient, direct.why) == ("direct", "")


def test_other_methods_are_named_without_a_reason():
    for batch in ("shared", "rows"):
        stats = odekit.solve(decay, Y0, [0.0, 1.0], gradient="checkpointed", batch=batch).stats
        assert (stats.gradient, stats.why) == ("checkpointed", "")


def test_a_state_that_jumps_has_one_choice_for_all_legs():
    bounce = odekit.Event(lambda t, y: y[0] - 0.5, jump=lambda t, y: y + 1, direction=-1)
    y0 = torch.ones(2, dtype=DOUBLE, requires_grad=True)
    solution = odekit.solve(decay, y0, [0.0, 2.0], gradient="auto", events=bounce)
    assert len(solution.events[0].ts) > 1
    assert solution.stats.gradient == "direct"
    solution.y1.sum().backward()
    assert y0.grad is not None


def test_adaptive_steps_are_guessed_within_a_factor_of_a_few():
    for rtol in (1e-3, 1e-6, 1e-9):
        stats = odekit.solve(bent, Y0, [0.0, 1.0], gradient=Auto(1e9), rtol=rtol, atol=rtol).stats
        guess = int(stats.why.split()[0])
        assert stats.accepted / 2 <= guess <= 6 * stats.accepted


def test_a_span_without_end_and_one_of_nothing():
    stop = odekit.Event(lambda t, y: y.abs().amax() - 0.5)
    for times in ([0.0, math.inf], [1.0, 1.0]):
        solution = odekit.solve(decay, Y0, times, gradient="auto", events=stop)
        assert solution.status.ok
        assert solution.stats.gradient == "direct"


def test_what_is_kept_of_an_evaluation():
    net = nn.Sequential(nn.Linear(4, 50), nn.Tanh(), nn.Linear(50, 4)).double()
    y = Y0.clone().requires_grad_()
    kept = memory.kept_by(lambda: net(y), y)
    assert kept == Y0.numel() * 8 + 3 * 50 * 8  # the input and what Tanh gave; the weights are there anyway
    assert memory.kept_by(lambda: y + y, y) == 0
    assert memory.kept_by(lambda: torch.func.vjp(torch.sin, y)[1](y)[0], y) >= Y0.numel() * 8
    with torch.no_grad():
        assert memory.kept_by(lambda: net(y), y) == kept


def test_free_memory_respects_the_limit_of_a_container(tmp_path, monkeypatch):
    whole = memory.free(CPU)
    assert whole > 2**20
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    assert memory.free(CPU) == 2_000_000
    (tmp_path / "memory.max").write_text("max\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
    assert memory.free(CPU) > 2**20


@pytest.mark.parametrize("limit", [0, -1.0, math.inf, True, "2e9"])
def test_a_limit_is_a_number_of_bytes(limit):
    with pytest.raises(InputError, match="memory_limit"):
        Auto(limit)


def test_it_is_exact_by_itself_too():
    assert Auto.exact
    assert isinstance(Direct().chosen(None, None, None)[0], Direct)
