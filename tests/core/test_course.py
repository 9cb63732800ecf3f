"""What else happens on the way: forced stops, discontinuities, bounds on steps, what is saved, and callbacks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from problems import ADAPTIVE, DOUBLE, GRADIENTS, Counted, close, decay, solver_class
from torch import Tensor

from odekit import Callbacks, PIDControl, Status, solve
from odekit.core.sections import Section, Stops
from odekit.errors import InputError, OptionError

ONE = torch.ones(1, dtype=DOUBLE)


def kinked(t: Tensor, y: Tensor) -> Tensor:
    """dy/dt = -y before t = 1, 2 y from then on."""
    return torch.where(t < 1.0, -y, 2 * y)


# Stops


@pytest.mark.parametrize("solver", ["dopri5", "rk4"])
@pytest.mark.parametrize("span", [(0.0, 2.0), (2.0, 0.0)])
def test_steps_end_at_forced_times(solver: str, span: tuple[float, float]) -> None:
    fixed = {"step_size": 0.4} if solver == "rk4" else {}
    stops = [0.77, 5.0, 0.5, 1.5, 0.0]
    sol = solve(decay, ONE, list(span), solver=solver, step_times=stops, save="steps", **fixed)
    assert {0.5, 0.77, 1.5} <= set(sol.ts.tolist())
    assert 5.0 not in sol.ts
    if fixed:
        assert sol.ts.tolist() == pytest.approx(
            [0, 0.4, 0.5, 0.77, 0.8, 1.2, 1.5, 1.6, 2] if span[1] else [2, 1.6, 1.5, 1.2, 0.8, 0.77, 0.5, 0.4, 0]
        )


def test_a_forced_stop_does_not_make_the_steps_small() -> None:
    free = solve(decay, ONE, [0.0, 10.0], save="steps")
    forced = solve(decay, ONE, [0.0, 10.0], save="steps", step_times=[5.0])
    assert forced.stats.accepted <= free.stats.accepted + 2


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_discontinuity_that_is_announced_costs_nothing_and_is_exact(gradient: str) -> None:
    y0 = ONE.clone().requires_grad_()
    told = solve(kinked, y0, [0.0, 2.0], jump_times=[1.0], gradient=gradient, rtol=1e-9, atol=1e-11)
    untold = solve(kinked, y0, [0.0, 2.0], gradient=gradient, rtol=1e-9, atol=1e-11)
    close(told.y1, [math.e], 1e-8)
    assert told.stats.rejected < untold.stats.rejected
    (grad,) = torch.autograd.grad(told.y1, y0)
    close(grad, [math.e], 1e-7)


@pytest.mark.parametrize("name", [n for n in ADAPTIVE if solver_class(n).order > 1])
def test_every_adaptive_solver_takes_a_discontinuity(name: str) -> None:
    if getattr(solver_class(name), "structure", "general") != "general":
        pytest.skip("needs a problem of its own kind")
    sol = solve(kinked, ONE, [0.0, 2.0], solver=name, jump_times=[1.0], rtol=1e-6, atol=1e-8)
    close(sol.y1, [math.e], 1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("span", [(0.0, 2.0), (2.0, 0.0), (1.0, 2.0), (0.0, 1.0)])
def test_f_is_asked_for_its_limits_on_either_side_of_a_discontinuity(
    dtype: torch.dtype, span: tuple[float, float]
) -> None:
    f = Counted(kinked)
    solve(f, ONE.to(dtype), list(span), jump_times=[1.0])
    assert 1.0 not in f.times
    assert min(span) <= min(f.times) <= max(f.times) <= max(span)


def test_a_multistep_memory_is_not_carried_across_a_discontinuity() -> None:
    """bosh3 hands its last slope on; across the discontinuity that slope is wrong."""
    f = Counted(kinked)
    sol = solve(f, ONE, [0.0, 2.0], solver="bosh3", jump_times=[1.0])
    beside = [t for t in f.times if abs(t - 1.0) < 1e-12]
    assert len(beside) >= 2
    assert min(beside) < 1.0 < max(beside)
    assert sol.status is Status.SUCCESS


def test_sections_between_discontinuities() -> None:
    stops = Stops.of([0.3], [1.0, 2.0, 0.0], 0.0, 1.5)
    assert stops.times == (0.3, 1.0)
    assert stops.jumps == (0.0, 1.0)
    assert stops.section(0.0, 0.3) == Section(0.0, 1.0)
    assert stops.section(1.0, 1.5) == Section(1.0, math.inf)
    assert Stops.of([0.3], [], 0.0, 1.0).section(0.0, 0.3) is None
    assert Stops.of([0.3, 0.6], [], 1.0, 0.0).times == (0.6, 0.3)


@pytest.mark.parametrize("times", [0.5, [math.nan], [math.inf]])
def test_stops_that_are_no_times(times: Any) -> None:
    with pytest.raises(InputError, match="step_times"):
        solve(decay, ONE, [0.0, 1.0], step_times=times)


# Bounds on steps


def test_bounds_on_steps() -> None:
    sol = solve(decay, ONE, [0.0, 3.0], dt_max=0.25, first_step=0.125, save="steps")
    sizes = sol.ts.diff()
    assert float(sizes.max()) <= 0.25 * 1.02
    assert float(sizes[0]) == 0.125
    failed = solve(lambda t, y: -1e4 * y, ONE, [0.0, 3.0], dt_min=0.1, first_step=0.5, throw=False)
    assert failed.status is Status.STEP_UNDERFLOW
    same = solve(decay, ONE, [0.0, 3.0], control=PIDControl(dt_max=0.25, first_step=0.125), save="steps")
    assert torch.equal(same.ys, sol.ys)


def test_bounds_do_not_go_with_fixed_steps() -> None:
    with pytest.raises(OptionError, match="dt_max: a FixedStep does not take them"):
        solve(decay, ONE, [0.0, 1.0], step_size=0.1, dt_max=0.1)
    with pytest.raises(InputError, match=r"dt_min=0\.5, dt_max=0\.1"):
        solve(decay, ONE, [0.0, 1.0], dt_min=0.5, dt_max=0.1)


# What is saved


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_accepted_steps_as_outputs(gradient: str) -> None:
    y0 = ONE.clone().requires_grad_()
    sol = solve(decay, y0, [0.0, 0.5, 2.0], save="steps", gradient=gradient, rtol=1e-8, atol=1e-10)
    assert len(sol.ts) == len(sol.ys) == sol.stats.accepted + 1
    assert sol.ts[0] == 0.0
    assert sol.ts[-1] == 2.0
    close(sol.ys[:, 0].detach(), torch.exp(-sol.ts), 1e-7)
    (grad,) = torch.autograd.grad(sol.ys.sum(), y0)
    close(grad, [float(torch.exp(-sol.ts).sum())], 1e-6)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_function_of_the_state_as_output(gradient: str) -> None:
    y0 = torch.tensor([3.0, 4.0], dtype=DOUBLE, requires_grad=True)
    times = torch.linspace(0, 1, 3, dtype=DOUBLE)
    for save in (lambda y: y.norm(), lambda t, y: y.norm(), torch.norm):
        sol = solve(decay, y0, times, save=save, gradient=gradient)
        close(sol.ys.detach(), 5 * torch.exp(-times))
    (grad,) = torch.autograd.grad(sol.ys[-1], y0)
    close(grad, [0.6 * math.exp(-1), 0.8 * math.exp(-1)], 1e-5)
    pair = solve(decay, y0, times, save=lambda t, y: {"t": t, "twice": 2 * y}, gradient=gradient).ys
    assert torch.equal(pair["t"], times)
    assert pair["twice"].shape == (3, 2)


@pytest.mark.parametrize("save", ["step", 3])
def test_what_cannot_be_saved(save: Any) -> None:
    with pytest.raises(InputError, match="save"):
        solve(decay, ONE, [0.0, 1.0], save=save)


# Callbacks


def test_a_callback_is_told_of_every_accepted_step() -> None:
    seen: list[tuple[float, float]] = []
    sol = solve(
        lambda t, y: {"y": -y["y"]}, {"y": ONE}, [0.0, 2.0], save="steps",
        callback=lambda t, y: seen.append((t, float(y["y"][0]))),
    )  # fmt: skip
    assert [t for t, _ in seen] == sol.ts[1:].tolist()
    assert [y for _, y in seen] == sol.ys["y"][1:, 0].tolist()


def test_callbacks_at_every_moment() -> None:
    moments: list[str] = []
    hooks = Callbacks(
        attempt=lambda t0, t1, y0: moments.append("attempt"),
        accept=lambda t0, t1, y0: moments.append("accept"),
        reject=lambda t0, t1, y0: moments.append("reject"),
    )
    sol = solve(lambda t, y: -(y**3) * 50, 2 * ONE, [0.0, 2.0], first_step=0.5, callback=hooks)
    assert moments.count("attempt") == sol.stats.steps
    assert moments.count("accept") == sol.stats.accepted
    assert moments.count("reject") == sol.stats.rejected > 0
    assert moments[0] == "attempt"


def test_what_a_callback_raises_ends_the_solve() -> None:
    def enough(t: float, y: Tensor) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        solve(decay, ONE, [0.0, 2.0], callback=enough)
    with pytest.raises(InputError, match="callback is a int"):
        solve(decay, ONE, [0.0, 2.0], callback=3)
    with pytest.raises(InputError, match="callback accept=3"):
        Callbacks(accept=3)  # type: ignore[arg-type]


# Predictive control


def test_predictive_control_reaches_the_tolerance() -> None:
    sol = solve(lambda t, y: -50 * (y - torch.cos(t)), ONE, [0.0, 5.0], solver="kvaerno3", control="predictive")
    reference = solve(lambda t, y: -50 * (y - torch.cos(t)), ONE, [0.0, 5.0], rtol=1e-11, atol=1e-12)
    close(sol.y1, reference.y1, 1e-5)
