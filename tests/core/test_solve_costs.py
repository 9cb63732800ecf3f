"""What a solve costs: every call of f is counted, and nothing else is touched."""

from __future__ import annotations

import pytest
import torch
from problems import ADAPTIVE, AUTONOMOUS, DOUBLE, GRADIENTS, IMPLICIT, SOLVERS, Counted, decay
from torch import Tensor

from odekit import solve


def scaled(t: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    return scale * torch.sin(t + y)


@pytest.mark.filterwarnings("ignore::odekit.errors.AdjointDriftWarning")
@pytest.mark.parametrize("times", [[0.0, 1.0], [1.0, 0.55, 0.3, 0.0]], ids=["ends", "with outputs inside"])
@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_call_of_f_is_counted(solver: str, gradient: str, times: list[float]) -> None:
    for step_size in (0.2, *([None] if solver in ADAPTIVE else [])):
        for t in (times, torch.tensor(times, dtype=DOUBLE, requires_grad=True)):
            f = Counted(scaled)
            y0 = torch.ones(2, 3, dtype=DOUBLE, requires_grad=True)
            scale = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)
            options = {"solver": solver, "gradient": gradient, "step_size": step_size, "rtol": 1e-4, "atol": 1e-4}
            solution = solve(f, y0, t, args=(scale,), **options)
            forward = f.calls
            assert solution.stats.nfe == forward > 0
            assert solution.stats.nfe_backward == 0
            solution.ys.square().sum().backward()
            assert solution.stats.nfe == forward
            assert solution.stats.nfe_backward == f.calls - forward
            assert (solution.stats.nfe_backward == 0) is (gradient == "direct")
            assert (solution.stats.steps_backward == 0) is (gradient == "direct")
            assert solution.stats.steps == solution.stats.accepted + solution.stats.rejected
            assert (solution.stats.jacobians > 0) is (solver in IMPLICIT)


def test_explicit_steps_cost_what_their_stages_say() -> None:
    """Ten steps: a first-same-as-last method saves its last stage everywhere but once."""
    costs = {"euler": 10, "midpoint": 20, "heun": 20, "rk4": 40, "rk4-38": 40, "bosh3": 31, "dopri5": 61, "tsit5": 61}
    for solver, nfe in costs.items():
        y0 = torch.ones(1, dtype=DOUBLE)
        assert solve(decay, y0, [0.0, 1.0], solver=solver, step_size=0.1).stats.nfe == nfe, solver


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_solving_without_grad_costs_the_same_and_keeps_nothing(gradient: str) -> None:
    y0 = torch.ones(2, requires_grad=True)
    with_grad = solve(decay, y0, [0.0, 1.0], gradient=gradient)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            without = solve(decay, y0, [0.0, 1.0], gradient=gradient)
        assert not without.ys.requires_grad
        assert without.stats.nfe == with_grad.stats.nfe
        assert torch.equal(without.ys, with_grad.ys.detach())


@pytest.mark.parametrize("solver", SOLVERS)
def test_solving_twice_gives_the_same_bits(solver: str) -> None:
    y0 = AUTONOMOUS.exact(0.0).expand(5, 2)
    step_size = None if solver in ADAPTIVE else 0.1
    first, second = (solve(AUTONOMOUS.f, y0, [0.0, 0.4, 1.0], solver=solver, step_size=step_size) for _ in range(2))
    assert torch.equal(first.ys, second.ys)
    assert first.stats == second.stats


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_y0_is_left_as_it_was(solver: str, gradient: str) -> None:
    y0 = torch.rand(3, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    before, version = y0.detach().clone(), y0._version
    solve(AUTONOMOUS.f, y0, [0.0, 0.4, 1.0], solver=solver, gradient=gradient, step_size=0.1).ys.sum().backward()
    assert torch.equal(y0, before)
    assert y0._version == version
