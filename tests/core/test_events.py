"""Events: found where they are, in order, whatever the direction; their times and states have right gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from problems import DOUBLE, EXPLICIT, GRADIENTS, close
from torch import Tensor, nn

from odekit import Event, Status, solve
from odekit.core.roots import bracketed_roots
from odekit.errors import GradientError, InputError, OptionError, SolveError

TIGHT = {"rtol": 1e-10, "atol": 1e-12}
G = 9.81


def turning(t: Tensor, y: Tensor) -> Tensor:
    """(cos t, -sin t) from (1, 0)."""
    return torch.stack([y[1], -y[0]])


def falling(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[1], torch.full_like(y[1], -G)])


def start(*values: float, grad: bool = False) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE, requires_grad=grad)


# The root finder


def test_roots_of_many_functions_at_once() -> None:
    def g(x: np.ndarray) -> np.ndarray:
        return np.array([x[0] ** 3 - 0.2, math.tanh(80 * (x[1] - 0.9)), x[2] - 0.31, math.copysign(1.0, x[3] - 0.77)])

    low, high = np.zeros(4), np.ones(4)
    roots = bracketed_roots(g, low, high, g(low), g(high), 1e-15)
    assert roots == pytest.approx([0.2 ** (1 / 3), 0.9, 0.31, 0.77], abs=1e-14)


def test_the_root_finder_ends_on_values_that_are_not_numbers() -> None:
    ends = np.array([0.0]), np.array([1.0]), np.array([-1.0]), np.array([1.0])
    assert 0 <= bracketed_roots(lambda x: np.full_like(x, np.nan), *ends, 1e-15)[0] <= 1


# Where and when


@pytest.mark.parametrize("name", EXPLICIT)
def test_an_event_is_found_to_the_accuracy_of_the_solve(name: str) -> None:
    sol = solve(turning, start(1, 0), [0.0, 4.0], solver=name, step_size=0.01, events=lambda t, y: y[0])
    direct = solve(turning, start(1, 0), [0.0, math.pi / 2], solver=name, step_size=0.01)
    assert sol.status is Status.EVENT
    assert sol.t1 == pytest.approx(math.pi / 2, abs=10 * float(direct.y1[0].abs()) + 1e-8)
    assert float(sol.y1[0]) == pytest.approx(0.0, abs=1e-14)


def test_a_terminal_event_ends_the_solve_there_and_later_outputs_are_nan() -> None:
    times = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=DOUBLE)
    sol = solve(turning, start(1, 0), times, events=Event(lambda t, y: y[0]), **TIGHT)
    assert (sol.status, sol.event) == (Status.EVENT, 0)
    assert sol.status.ok
    assert sol.t1 == pytest.approx(math.pi / 2, abs=1e-9)
    close(sol.ys[1], [math.cos(1), -math.sin(1)], 1e-9)
    assert bool(sol.ys[2:].isnan().all())
    close(sol.events[0].ts, [math.pi / 2], 1e-9)
    close(sol.events[0].ys, [[0.0, -1.0]], 1e-9)
    close(sol.y1, sol.events[0].ys[0], 0)


@pytest.mark.parametrize(("direction", "found"), [(0, [0.5, 1.5, 2.5]), (1, [1.5]), (-1, [0.5, 2.5])])
def test_direction(direction: int, found: list[float]) -> None:
    event = Event(lambda t, y: y[0], terminal=False, direction=direction)
    sol = solve(turning, start(1, 0), [0.0, 9.0], events=event, **TIGHT)
    assert sol.status is Status.SUCCESS
    assert sol.event is None
    close(sol.events[0].ts / math.pi, torch.tensor(found, dtype=DOUBLE), 1e-9)


def test_directions_are_those_of_the_solve_when_it_runs_backwards() -> None:
    rising, dropping = (Event(lambda t, y: y[0], terminal=False, direction=d) for d in (1, -1))
    sol = solve(turning, start(1, 0), [0.0, -6.0], events=[rising, dropping], **TIGHT)
    close(sol.events[0].ts / math.pi, [-1.5], 1e-9)
    close(sol.events[1].ts / math.pi, [-0.5], 1e-9)


def test_non_terminal_events_leave_the_steps_and_the_answer_alone() -> None:
    alone = solve(turning, start(1, 0), [0.0, 2.5, 9.0])
    watched = solve(turning, start(1, 0), [0.0, 2.5, 9.0], events=Event(lambda t, y: y[0], terminal=False))
    assert torch.equal(alone.ys, watched.ys)
    assert alone.stats.steps == watched.stats.steps


def test_of_several_events_the_first_terminal_one_ends_the_solve() -> None:
    events = [
        Event(lambda t, y: y[0] + 0.5),
        Event(lambda t, y: t - 0.3, terminal=False),
        Event(lambda t, y: y[0] - 0.5),
        Event(lambda t, y: y[0] - 0.4999, terminal=False),
    ]
    sol = solve(turning, start(1, 0), [0.0, 9.0], events=events, **TIGHT)
    assert sol.event == 2
    assert sol.t1 == pytest.approx(math.pi / 3, abs=1e-9)
    assert [len(log.ts) for log in sol.events] == [0, 1, 1, 0]


def test_two_crossings_inside_one_step_are_both_seen() -> None:
    event = Event(lambda t, y: (t - 0.42) * (t - 0.61), terminal=False)
    sol = solve(lambda t, y: -y, start(1), [0.0, 1.0], solver="rk4", step_size=1.0, events=event)
    close(sol.events[0].ts, [0.42, 0.61], 1e-12)


@pytest.mark.parametrize("offset", [0.0, 1e-17, -1e-17])
def test_a_start_on_the_surface_is_no_crossing(offset: float) -> None:
    sol = solve(falling, start(offset, 5.0), [0.0, 3.0], events=lambda t, y: y[0], **TIGHT)
    assert sol.t1 == pytest.approx(2 * 5.0 / G, abs=1e-9)


def test_an_event_at_the_last_time_and_at_an_output_time() -> None:
    sol = solve(lambda t, y: torch.ones_like(y), start(0), [0.0, 0.5, 1.0], events=lambda t, y: y[0] - 1.0)
    assert sol.t1 == 1.0
    assert not bool(sol.ys.isnan().any())
    sol = solve(lambda t, y: torch.ones_like(y), start(0), [0.0, 0.5, 1.0], events=lambda t, y: y[0] - 0.5)
    assert sol.t1 == pytest.approx(0.5)
    assert sol.ys[:2, 0].tolist() == pytest.approx([0.0, 0.5])


def test_the_end_may_be_infinite_if_an_event_ends_the_solve() -> None:
    sol = solve(falling, start(10.0, 0.0), [0.0, math.inf], events=lambda t, y: y[0], **TIGHT)
    assert sol.t1 == pytest.approx(math.sqrt(20 / G), abs=1e-9)
    sol = solve(falling, start(10.0, 0.0), [0, math.inf], solver="rk4", step_size=0.1, events=lambda t, y: y[0])
    assert sol.t1 == pytest.approx(math.sqrt(20 / G), abs=1e-9)
    assert bool(sol.ys[1].isnan().all())  # no such time was reached
    with pytest.raises(InputError, match="outside what was solved"):
        sol.interpolate(sol.t1 + 1e-3)


def test_an_event_that_never_happens_uses_up_the_steps() -> None:
    options = {"events": lambda t, y: y[0] + 1, "max_steps": 50}
    sol = solve(lambda t, y: -y, start(1), [0.0, math.inf], throw=False, **options)
    assert sol.status is Status.MAX_STEPS
    with pytest.raises(SolveError, match="max_steps"):
        solve(lambda t, y: -y, start(1), [0.0, math.inf], **options)


def test_an_infinite_time_needs_a_terminal_event() -> None:
    for events in (None, Event(lambda t, y: y[0], terminal=False)):
        with pytest.raises(InputError, match="if there is a terminal event"):
            solve(lambda t, y: -y, start(1), [0.0, math.inf], events=events)


def test_nested_complex_and_single_precision_states() -> None:
    def f(t: Tensor, y: dict[str, Any]) -> dict[str, Any]:
        return {"z": 1j * y["z"], "w": [torch.zeros_like(w) for w in y["w"]]}

    y0 = {"z": torch.ones(2, dtype=torch.complex64), "w": [torch.zeros(3, dtype=torch.complex64)]}
    sol = solve(f, y0, [0.0, 3.0], events=lambda t, y: y["z"][0].real)
    assert sol.t1 == pytest.approx(math.pi / 2, abs=1e-4)
    assert sol.events[0].ts.dtype == torch.float32
    assert sol.events[0].ys["w"][0].shape == (1, 3)


def test_args_reach_the_event_function() -> None:
    sol = solve(lambda t, y, a: -a * y, start(1), [0, 5], args=(start(2.0),), events=lambda t, y, a: y[0] - 1 / a[0])
    assert sol.t1 == pytest.approx(math.log(2) / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("events", "words"),
    [
        (3, "events is a int"),
        ([3], "event fn=3"),
        (lambda t, y: y, "returned a torch.float64 of shape"),
        (lambda t, y: y[0] > 0, "returned a torch.bool"),
        (lambda t, y: 1.0, "returned 1.0"),
        (lambda t, y: y[0] * math.nan, "returned NaN at t = "),
    ],
)
def test_events_that_are_none(events: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        solve(turning, start(1, 0), [0.0, 9.0], events=events)


def test_contradictions_in_an_event() -> None:
    with pytest.raises(InputError, match=r"direction=2: expected 1 \(rising\)"):
        Event(lambda t, y: y, direction=2)
    with pytest.raises(OptionError, match="goes on after it"):
        Event(lambda t, y: y, terminal=True, jump=lambda t, y: y)


# Jumps


def bounces(height: float, restitution: float, count: int) -> list[float]:
    """When a ball that is dropped hits the floor."""
    t, speed, times = math.sqrt(2 * height / G), math.sqrt(2 * height * G), []
    for _ in range(count):
        times.append(t)
        speed *= restitution
        t += 2 * speed / G
    return times


def test_a_bouncing_ball() -> None:
    ball = Event(lambda t, y: y[0], direction=-1, jump=lambda t, y: torch.stack([y[0], -0.8 * y[1]]))
    times = torch.linspace(0, 5, 11, dtype=DOUBLE)
    sol = solve(falling, start(10, 0), times, events=ball, **TIGHT)
    assert sol.status is Status.SUCCESS
    expected = [t for t in bounces(10, 0.8, 20) if t < 5]
    close(sol.events[0].ts, expected, 1e-9)
    assert not bool(sol.ys.isnan().any())
    assert bool((sol.ys[:, 0] >= -1e-9).all())
    t1 = expected[0]
    speed = 0.8 * G * t1
    close(sol.ys[4, 0], speed * (2.0 - t1) - G / 2 * (2.0 - t1) ** 2, 1e-9)


def test_infinitely_many_bounces_end_within_bounds() -> None:
    """They pile up at three times the first fall; once rounding is all that moves, either limit may end the solve."""
    ball = Event(lambda t, y: y[0], direction=-1, jump=lambda t, y: torch.stack([y[0], -0.5 * y[1]]))
    sol = solve(falling, start(10, 0), [0.0, 10.0], events=ball, throw=False, max_steps=500)
    assert sol.stats.steps <= 500
    hits = sol.events[0].ts
    assert len(hits) > 15
    assert bool((hits.diff() >= 0).all())
    close(hits[:12], bounces(10, 0.5, 12), 1e-5)
    assert float(hits[-1]) == pytest.approx(3 * math.sqrt(20 / G), abs=1e-4)


def test_accepted_steps_and_dense_output_across_a_jump() -> None:
    ball = Event(lambda t, y: y[0], direction=-1, jump=lambda t, y: torch.stack([y[0], -0.8 * y[1]]))
    sol = solve(falling, start(10, 0), [0.0, 3.0], events=ball, save="steps", **TIGHT)
    hit = bounces(10, 0.8, 1)[0]
    at = [k for k, t in enumerate(sol.ts.tolist()) if abs(t - hit) < 1e-9]
    assert len(at) == 2  # before and after the jump
    close(sol.ys[at[1], 1], -0.8 * sol.ys[at[0], 1], 1e-12)
    speed = 0.8 * G * hit
    close(sol.interpolate(2.0)[0], speed * (2.0 - hit) - G / 2 * (2.0 - hit) ** 2, 1e-9)
    close(sol.interpolate(1.0)[0], 10 - G / 2, 1e-9)
    assert (
        float(sol.interpolate(torch.linspace(0, 3, 301, dtype=DOUBLE))[:, 0].min()) > -1e-9
    )  # nowhere below the floor


@pytest.mark.parametrize("direction", [0, 1])
@pytest.mark.parametrize("options", [TIGHT, {"solver": "rk4", "step_size": 0.3}])
def test_a_jump_that_leaves_the_surface_is_no_crossing(direction: int, options: dict[str, Any]) -> None:
    """A neuron that fires: v = 2 (1 - e^-t) is reset from 1 to 0 at every multiple of log 2."""
    reset = Event(lambda t, y: y[0] - 1, direction=direction, jump=lambda t, y: 0 * y)
    sol = solve(lambda t, y: 2 - y, start(0), [0.0, 5.0], events=reset, **options)
    close(sol.events[0].ts, [k * math.log(2) for k in range(1, 8)], 1e-8 if options is TIGHT else 1e-2)


def test_a_jump_at_the_last_time() -> None:
    doubled = Event(lambda t, y: t - 1.0, jump=lambda t, y: 2 * y)
    sol = solve(lambda t, y: torch.ones_like(y), start(0), [0.0, 1.0], events=doubled)
    assert sol.status is Status.SUCCESS
    close(sol.ys[-1], [1.0])
    close(sol.y1, [2.0])


# Gradients


class Threshold(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.5, dtype=DOUBLE))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return y[0] - self.level


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_the_time_of_an_event_has_the_gradient_of_the_closed_form(gradient: str) -> None:
    """y = y0 e^{-a t} meets the level c at t* = log(y0 / c) / a."""
    y0, a, event = start(2.0, grad=True), nn.Parameter(start(0.7)), Threshold()
    sol = solve(lambda t, y: -a * y, y0, [0.0, 9.0], events=event, gradient=gradient, **TIGHT)
    assert sol.t1 == pytest.approx(math.log(4) / 0.7, abs=1e-9)
    grads = torch.autograd.grad(sol.events[0].ts[0], [y0, a, event.level])
    close(torch.cat([g.reshape(1) for g in grads]), [1 / (2 * 0.7), -math.log(4) / 0.49, -1 / (0.5 * 0.7)], 1e-8)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_the_state_at_an_event_moves_along_the_surface(gradient: str) -> None:
    y0, event = start(1.0, 0.0, grad=True), Threshold()
    sol = solve(turning, y0, [0.0, 9.0], events=event, gradient=gradient, **TIGHT)
    grads = torch.autograd.grad(sol.y1[0], [y0, event.level], retain_graph=True)
    close(grads[0], [0.0, 0.0], 1e-8)
    close(grads[1], 1.0, 1e-8)
    (g,) = torch.autograd.grad(sol.y1[1], y0)  # y1 = -sqrt(|y0|² - c²)
    close(g, [-1 / math.sqrt(0.75), 0.0], 1e-8)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("terminal", [True, False])
def test_gradients_agree_with_finite_differences(gradient: str, terminal: bool) -> None:
    """For a time-dependent f, the initial time included."""

    def crossing(y0: Tensor, a: Tensor, c: Tensor, t0: Tensor) -> Tensor:
        times = torch.cat([t0, torch.tensor([4.0], dtype=DOUBLE)])
        event = Event(lambda t, y: y.sum() - c * (1 + 0.1 * t), terminal=terminal)
        sol = solve(
            lambda t, y: -a * y + torch.cos(t) / 5, y0, times, events=event, gradient=gradient, rtol=1e-11, atol=1e-12
        )
        return torch.cat([sol.events[0].ts, sol.events[0].ys[0]])

    point = [start(2.0, 1.0), start(0.7), start(1.5).reshape(()), start(0.1)]
    point = [x.requires_grad_() for x in point]
    assert torch.autograd.gradcheck(crossing, point, eps=1e-5, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("gradient", ["direct", "checkpointed"])
def test_gradients_are_those_of_the_computed_numbers(gradient: str) -> None:
    """With coarse fixed steps, far from the solution of the ODE."""

    def crossing(y0: Tensor) -> Tensor:
        sol = solve(turning, y0, [0.0, 3.0], solver="rk4", step_size=0.75, events=Threshold(), gradient=gradient)
        return torch.cat([sol.events[0].ts, sol.y1])

    assert torch.autograd.gradcheck(crossing, start(1.0, 0.1, grad=True), eps=1e-6, atol=1e-7)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_gradients_through_bounces(gradient: str) -> None:
    """With respect to height, restitution, and the level of the floor, which the event and f alone know."""
    h, e, floor = start(10.0, grad=True), start(0.9, grad=True), start(0.0, grad=True)
    ball = Event(lambda t, y: y[0] - floor, direction=-1, jump=lambda t, y: torch.stack([y[0], -e[0] * y[1]]))
    y0 = torch.cat([h, torch.zeros_like(h)])
    sol = solve(falling, y0, [0.0, 5.0], events=ball, gradient=gradient, **TIGHT)
    first = math.sqrt(20 / G)
    close(sol.events[0].ts, [first, first * 2.8], 1e-9)
    by_h, by_e, by_floor = torch.autograd.grad(sol.events[0].ts[1], [h, e, floor], retain_graph=True)
    close(torch.cat([by_h, by_e, by_floor]), [2.8 * first / 20, 2 * first, -2.8 * first / 20], 1e-8)

    def height(h: Tensor, e: Tensor, floor: Tensor) -> Tensor:
        fall = torch.sqrt(2 * (h - floor) / G)
        v, t = e**2 * G * fall, 5.0 - fall * (1 + 2 * e)
        return floor + v * t - G / 2 * t**2

    found = torch.autograd.grad(sol.y1[0], [h, e, floor])
    expected = torch.autograd.grad(height(h, e, floor), [h, e, floor])
    close(torch.cat(found), torch.cat(expected), 1e-7)


def test_an_event_function_that_is_flat_where_it_changes_sign_gives_no_derivative() -> None:
    y0 = start(0.0, grad=True)
    event = Event(lambda t, y: torch.where(t < 0.5, -1.0, 1.0) + 0 * y[0])
    with pytest.raises(GradientError, match="is flat where it crosses zero"):
        solve(lambda t, y: torch.ones_like(y), y0, [0.0, 1.0], events=event)


def test_a_second_derivative_of_an_event_time_is_an_error() -> None:
    y0 = start(2.0, grad=True)
    sol = solve(lambda t, y: -y, y0, [0.0, 9.0], events=lambda t, y: y[0] - 1)
    (g,) = torch.autograd.grad(sol.events[0].ts[0], y0, create_graph=True)
    with pytest.raises(GradientError, match="cannot be differentiated twice"):
        torch.autograd.grad(g, y0)
