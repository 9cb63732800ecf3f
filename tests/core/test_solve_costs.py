"""What a solve costs: every call of f is counted, and nothing else is touched."""

from __future__ import annotations

import pytest
import torch
from problems import ADAPTIVE, AUTONOMOUS, DOUBLE, GRADIENTS, SOLVERS, Counted, decay, solver_class
from torch import Tensor

from odekit import solve
from odekit.core.switching import Switching


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
            stiff = solver_class(solver).implicit and not issubclass(solver_class(solver), Switching)  # f is not
            assert (solution.stats.jacobians > 0) is stiff


STAGES = {
    "euler": 1, "midpoint": 2, "heun": 2, "adaptive_heun": 2, "ralston": 2, "fehlberg2": 3, "heun3": 3, "bosh3": 3,
    "ssprk3": 3, "rk4": 4, "rk4-38": 4, "dopri5": 6, "tsit5": 6, "vern7": 9, "dopri8": 13,
}  # fmt: skip


@pytest.mark.parametrize("solver", STAGES)
def test_fixed_steps_cost_the_stages_that_lead_to_y1(solver: str) -> None:
    """Ten steps: what only an error estimate needs is not evaluated, for nobody reads it."""
    y0 = torch.ones(1, dtype=DOUBLE)
    assert solve(decay, y0, [0.0, 1.0], solver=solver, step_size=0.1).stats.nfe == 10 * STAGES[solver]


ADAPTIVE_COSTS = {"midpoint": 2, "bosh3": 3, "rk4": 5, "rk4-38": 4, "dopri5": 6, "vern7": 10}


@pytest.mark.parametrize("solver", ADAPTIVE_COSTS)
def test_adaptive_steps_cost_their_stages_too(solver: str) -> None:
    """A first-same-as-last method hands its last stage on; the first step's size takes one call more."""
    solution = solve(decay, torch.ones(1, dtype=DOUBLE), [0.0, 1.0], solver=solver, rtol=1e-4, atol=1e-4)
    assert solution.stats.rejected == 0
    fsal = solver in ("bosh3", "rk4-38", "dopri5")
    saved = 0 if fsal else 1  # the slope at the start is known from choosing the first step
    assert solution.stats.nfe == 2 + ADAPTIVE_COSTS[solver] * solution.stats.accepted - saved


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
