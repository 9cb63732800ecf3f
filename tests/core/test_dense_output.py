"""The answer at any time: after forward, backward, stopped and failed solves, with derivatives and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from problems import DOUBLE, GRADIENTS, SOLVERS, TIMED, close, solver_class
from torch import Tensor

from odekit import Event, solve
from odekit.core.dense import Recorder
from odekit.errors import GradientError, InputError

TIGHT = {"rtol": 1e-9, "atol": 1e-11}
TIMES = torch.tensor([0.31, 1.7, 0.2, 1.01, 0.31], dtype=DOUBLE)


def decays(t: Tensor, y: Tensor) -> Tensor:
    return -y


@pytest.mark.parametrize("span", [(0.2, 1.7), (1.7, 0.2)], ids=["forwards", "backwards"])
@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_answers_at_any_time(name: str, span: tuple[float, float]) -> None:
    if getattr(solver_class(name), "structure", "general") != "general":
        pytest.skip("needs a problem of its own kind")
    sol = solve(TIMED.f, TIMED.exact(span[0]), list(span), solver=name, step_size=0.01, dense=True)
    exact = torch.stack([TIMED.exact(float(t)) for t in TIMES])
    close(sol.interpolate(TIMES), exact, 2e-2 if solver_class(name).order == 1 else 1e-3)
    slopes = torch.stack([TIMED.f(t, y) for t, y in zip(TIMES, exact, strict=True)])
    close(sol.derivative(TIMES), slopes, 5e-2 if solver_class(name).order == 1 else 5e-3)


def test_shapes_follow_the_times_and_the_state() -> None:
    y0 = {"a": torch.ones(2, 3), "b": (torch.ones(2),)}
    sol = solve(lambda t, y: {"a": -y["a"], "b": (-y["b"][0],)}, y0, [0.0, 1.0])
    assert sol.interpolate(0.5)["a"].shape == (2, 3)
    assert sol.interpolate(torch.tensor(0.5))["b"][0].shape == (2,)
    assert sol.interpolate([0.5, 0.1, 0.9])["a"].shape == (3, 2, 3)
    assert sol.interpolate([])["a"].shape == (0, 2, 3)
    assert sol.derivative([[0.5, 0.1]])["b"][0].shape == (1, 2, 2)
    assert sol.interpolate(0.5)["a"].dtype == torch.float32


def test_at_the_output_times_it_gives_the_outputs() -> None:
    times = torch.linspace(0, 3, 7, dtype=DOUBLE)
    sol = solve(TIMED.f, TIMED.exact(0.0), times)
    close(sol.interpolate(times), sol.ys, 1e-13)
    complex_ = solve(lambda t, y: 1j * y, torch.ones(2, dtype=torch.complex128), times, **TIGHT)
    close(complex_.interpolate(1.1), torch.exp(torch.tensor(1.1j, dtype=torch.complex128)).expand(2), 1e-7)
    close(complex_.derivative(1.1), 1j * torch.exp(torch.tensor(1.1j, dtype=torch.complex128)).expand(2), 1e-5)


def test_after_an_event_and_after_a_failure_it_covers_what_was_solved() -> None:
    sol = solve(decays, torch.ones(1, dtype=DOUBLE), [0.0, 5.0], events=Event(lambda t, y: y[0] - 0.5), **TIGHT)
    close(sol.interpolate(0.5), [math.exp(-0.5)], 1e-8)
    failed = solve(lambda t, y: y**2, torch.ones(1, dtype=DOUBLE), [0.0, 2.0], throw=False, max_steps=60, **TIGHT)
    close(failed.interpolate(0.5), [2.0], 1e-6)
    with pytest.raises(InputError, match=r"t = 2 lies outside what was solved, from 0 to 0\.\d+"):
        failed.interpolate(2.0)


@pytest.mark.parametrize("outside", [-0.01, 1.01, math.nan])
def test_times_outside_are_an_error(outside: float) -> None:
    with pytest.raises(InputError, match="outside what was solved"):
        solve(decays, torch.ones(1), [0.0, 1.0]).interpolate([0.5, outside])


def test_gradients_flow_through_it_to_the_state_and_to_the_time() -> None:
    y0 = torch.tensor([2.0], dtype=DOUBLE, requires_grad=True)
    t = torch.tensor([0.7, 0.2], dtype=DOUBLE, requires_grad=True)
    sol = solve(decays, y0, [0.0, 1.0], **TIGHT)
    by_y, by_t = torch.autograd.grad(sol.interpolate(t).sum(), [y0, t])
    close(by_y, [math.exp(-0.7) + math.exp(-0.2)], 1e-8)
    close(by_t, [-2 * math.exp(-0.7), -2 * math.exp(-0.2)], 1e-6)


@pytest.mark.parametrize("gradient", [name for name in GRADIENTS if name != "direct"])
def test_methods_that_spare_memory_keep_steps_when_told_to_and_say_that_gradients_are_missing(gradient: str) -> None:
    y0 = torch.ones(1, requires_grad=True)
    with pytest.raises(InputError, match="dense=True"):
        solve(decays, y0, [0.0, 1.0], gradient=gradient).interpolate(0.5)
    sol = solve(decays, y0, [0.0, 1.0], gradient=gradient, dense=True)
    close(sol.interpolate(0.5).detach(), [math.exp(-0.5)])
    with pytest.raises(GradientError, match="gradient='direct'"):
        sol.interpolate(0.5).sum().backward()
    assert solve(decays, y0.detach(), [0.0, 1.0], gradient=gradient).dense is not None  # nothing asks for gradients


def test_steps_are_kept_within_bounds_unless_told_otherwise() -> None:
    y0 = torch.ones(2**18)  # a step is about 9 MiB
    options = {"solver": "dopri5", "step_size": 0.05}
    with torch.no_grad():
        assert solve(decays, y0, [0.0, 0.2], **options).dense is not None
        assert solve(decays, y0, [0.0, 1.0], **options).dense is None
        assert solve(decays, y0, [0.0, 1.0], dense=True, **options).dense is not None
        assert solve(decays, y0, [0.0, 0.2], dense=False, **options).dense is None


def test_a_recorder_without_a_limit_drops_nothing() -> None:
    assert not Recorder(None).dropped
    with pytest.raises(InputError, match="dense='yes'"):
        solve(decays, torch.ones(1), [0.0, 1.0], dense="yes")


def test_a_span_of_nothing_has_no_interpolant() -> None:
    with pytest.raises(InputError, match="nothing to interpolate"):
        solve(decays, torch.ones(1), [0.0, 0.0]).interpolate(0.0)


@pytest.mark.parametrize("name", ["dopri5", "rodas5p", "radau5"])
def test_a_derivative_has_a_gradient_only_where_the_solve_has(name: str) -> None:
    for wanted in (False, True):
        y0 = torch.ones(1, dtype=DOUBLE, requires_grad=wanted)
        sol = solve(decays, y0, [0.0, 1.0], solver=name, step_size=0.1)
        assert sol.derivative(0.55).requires_grad is wanted
        close(sol.derivative(0.55).detach(), [-math.exp(-0.55)], 1e-3)
