"""Events of rows: each row meets its own, as if it were alone, with the gradients of the closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from problems import DOUBLE, GRADIENTS, close
from torch import Tensor, nn

from odekit import Event, Status, solve
from odekit.errors import GradientError, InputError

TIGHT = {"rtol": 1e-10, "atol": 1e-12}
G = 9.81
B = 5
Y0 = torch.stack([torch.linspace(0.6, 1.4, B, dtype=DOUBLE), torch.zeros(B, dtype=DOUBLE)], -1)
MU = torch.linspace(0.2, 3.0, B, dtype=DOUBLE)
SPANS = torch.stack([torch.linspace(0.1 * b, 3.0 - 1.5 * b, 6, dtype=DOUBLE) for b in range(B)])  # both directions


def driven(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
    x, v = y.unbind(-1)
    return torch.stack([v, -mu * torch.sin(x) - 0.1 * v + 0.2 * torch.cos(t.reshape(-1))], -1)


def crossing(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
    return y[:, 0] - 0.3 - 0.01 * mu


def turning_back(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
    return y[:, 1] + 0.1


def decaying(t: Tensor, y: Tensor) -> Tensor:
    return -y


def falling(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[:, 1], torch.full_like(y[:, 1], -G)], -1)


def column(*values: float, grad: bool = False) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)[:, None].requires_grad_(grad)


def same_as_alone(found: Any, events: list[Event], spans: Tensor, **options: Any) -> None:
    for b in range(B):
        one = slice(b, b + 1)
        alone = solve(driven, Y0[one], spans[b], args=(MU[one],), events=events, **options)
        assert (found.status[b], found.event[b]) == (alone.status, alone.event)
        assert int(found.stats.steps[b]) == alone.stats.steps
        torch.testing.assert_close(found.ys[b], alone.ys[:, 0], rtol=1e-9, atol=1e-9, equal_nan=True)
        close(found.y1[b], alone.y1[0], 1e-9)
        assert float(found.t1[b]) == pytest.approx(alone.t1, abs=1e-10)
        for log, log_alone in zip(found.events, alone.events, strict=True):
            count = len(log_alone.ts)
            close(log.ts[b, :count], log_alone.ts, 1e-10)
            close(log.ys[b, :count], log_alone.ys[:, 0], 1e-9)
            assert bool(log.ts[b, count:].isnan().all())
            assert bool(log.ys[b, count:].isnan().all())


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("solver", ["dopri5", "rk4", pytest.param("kvaerno3", marks=pytest.mark.slow)])
def test_each_row_meets_the_events_that_it_meets_alone(solver: str, grad: bool) -> None:
    events = [Event(crossing), Event(turning_back, terminal=False), Event(lambda t, y, mu: t.reshape(-1) - 0.4, False)]
    options = {"solver": solver, "rtol": 1e-5, "atol": 1e-7, "step_size": 0.05 if solver == "rk4" else None}
    with torch.set_grad_enabled(grad):
        found = solve(driven, Y0, SPANS, args=(MU,), batch="rows", events=events, **options)
        assert set(found.status) == {Status.EVENT, Status.SUCCESS}
        assert found.events[1].ts.shape[1] >= 1
        same_as_alone(found, events, SPANS, **options)


@pytest.mark.parametrize("grad", [True, False])
def test_rows_jump_as_they_jump_alone(grad: bool) -> None:
    events = [
        Event(crossing, direction=-1, jump=lambda t, y, mu: torch.stack([y[:, 0] + 0.2 * mu, -y[:, 1]], -1)),
        Event(turning_back, terminal=False),
        Event(lambda t, y, mu: y[:, 1] - 2.0),
    ]
    spans, tight = 2.5 * SPANS, {"rtol": 1e-7, "atol": 1e-9}
    with torch.set_grad_enabled(grad):
        found = solve(driven, Y0, spans, args=(MU,), batch="rows", events=events, **tight)
        assert found.events[0].ts.shape[1] >= 2
        same_as_alone(found, events, spans, **tight)


@pytest.mark.parametrize("solver", ["dopri5", "adams_bashforth_moulton"])
def test_a_terminal_event_ends_its_row_and_no_other(solver: str) -> None:
    times = torch.tensor([0.0, 0.5, 1.0, 2.0], dtype=DOUBLE)
    found = solve(
        decaying, column(1.0, 2.0, 0.5), times, batch="rows", solver=solver, events=lambda t, y: y[:, 0] - 0.6
    )
    assert [*found.status] == [Status.EVENT, Status.EVENT, Status.SUCCESS]
    assert found.status.ok
    assert found.event == (0, 0, None)
    close(found.events[0].ts[:2, 0], [math.log(1 / 0.6), math.log(2 / 0.6)], 1e-6)
    close(found.t1, [math.log(1 / 0.6), math.log(2 / 0.6), 2.0], 1e-6)
    close(found.y1[:, 0], [0.6, 0.6, 0.5 * math.exp(-2)], 1e-6)
    assert found.ys.isnan()[:, :, 0].T.tolist() == [[False, False, True, True], [False] * 3 + [True], [False] * 4]
    assert found.events[0].ts.shape == (3, 1)
    assert bool(found.events[0].ts[2].isnan().all())


@pytest.mark.parametrize(("direction", "counts"), [(0, [3, 2, 1]), (1, [1, 1, 0]), (-1, [2, 1, 1])])
def test_direction_and_padding(direction: int, counts: list[int]) -> None:
    y0 = torch.tensor([[1.0, 0.0]] * 3, dtype=DOUBLE)
    spans = torch.tensor([[0.0, 9.0], [0.0, 6.0], [0.0, 3.0]], dtype=DOUBLE)
    event = Event(lambda t, y: y[:, :1], terminal=False, direction=direction)
    found = solve(lambda t, y: torch.stack([y[:, 1], -y[:, 0]], -1), y0, spans, batch="rows", events=event, **TIGHT)
    assert (~found.events[0].ts.isnan()).sum(1).tolist() == counts
    assert found.events[0].ys.shape == (3, max(counts), 2)
    assert found.event == (None, None, None)
    expected = torch.tensor({0: [0.5, 1.5, 2.5], 1: [1.5], -1: [0.5, 2.5]}[direction], dtype=DOUBLE) * math.pi
    close(found.events[0].ts[0], expected, 1e-9)


def test_no_event_leaves_empty_logs_and_the_answer_alone() -> None:
    event = Event(lambda t, y: y[:, 0] + 1.0)
    found = solve(decaying, column(1.0, 2.0), [0.0, 0.5, 1.0], batch="rows", events=event)
    plain = solve(decaying, column(1.0, 2.0), [0.0, 0.5, 1.0], batch="rows")
    assert torch.equal(found.ys, plain.ys)
    assert found.events[0].ts.shape == (2, 0)
    assert found.events[0].ys.shape == (2, 0, 1)


def test_bouncing_balls_of_different_heights() -> None:
    heights = torch.tensor([1.0, 5.0, 10.0], dtype=DOUBLE)
    ball = Event(lambda t, y: y[:, 0], direction=-1, jump=lambda t, y: torch.stack([y[:, 0], -0.8 * y[:, 1]], -1))
    y0 = torch.stack([heights, torch.zeros(3, dtype=DOUBLE)], -1)
    found = solve(falling, y0, torch.linspace(0, 2.5, 6, dtype=DOUBLE), batch="rows", events=ball, **TIGHT)
    assert [*found.status] == [Status.SUCCESS] * 3
    assert not bool(found.ys.isnan().any())
    first = torch.sqrt(2 * heights / G)
    close(found.events[0].ts[:, 0], first, 1e-9)
    close(found.events[0].ts[0], first[0] * (1 + 2 * torch.tensor([0.0, 0.8, 1.44, 1.952], dtype=DOUBLE)), 1e-9)
    assert bool(found.events[0].ts[1:, 1:].isnan().all())


def test_infinitely_many_bounces_use_up_the_steps_of_their_row_alone() -> None:
    ball = Event(lambda t, y: y[:, 0], direction=-1, jump=lambda t, y: torch.stack([y[:, 0], -0.4 * y[:, 1]], -1))
    y0 = torch.tensor([[1.0, 0.0], [1000.0, 0.0]], dtype=DOUBLE)
    found = solve(falling, y0, [0.0, 3.0], batch="rows", events=ball, throw=False, max_steps=60)
    assert not found.status[0].ok
    assert found.status[1] is Status.SUCCESS
    assert int(found.stats.steps.max()) <= 60


def test_a_jump_and_an_end_at_the_last_time() -> None:
    doubled = Event(lambda t, y: t[:, 0] - 1.0, jump=lambda t, y: 2 * y)
    spans = torch.tensor([[0.0, 1.0], [0.0, 2.0]], dtype=DOUBLE)
    found = solve(lambda t, y: torch.ones_like(y), column(0.0, 0.0), spans, batch="rows", events=doubled)
    assert [*found.status] == [Status.SUCCESS] * 2
    close(found.ys[:, -1, 0], [1.0, 3.0])
    close(found.y1[:, 0], [2.0, 3.0])
    found = solve(
        lambda t, y: torch.ones_like(y), column(0.0, 0.0), spans, batch="rows", events=lambda t, y: t[:, 0] - 1
    )
    assert found.t1.tolist() == [1.0, 1.0]
    assert found.ys[:, -1].isnan()[:, 0].tolist() == [False, True]


def test_starts_on_the_surface_are_no_crossings() -> None:
    y0 = torch.tensor([[0.0, 5.0], [1e-17, 5.0], [-1e-17, 5.0], [1.0, 0.0]], dtype=DOUBLE)
    found = solve(falling, y0, [0.0, 3.0], batch="rows", events=lambda t, y: y[:, 0], **TIGHT)
    close(found.t1, [10 / G] * 3 + [math.sqrt(2 / G)], 1e-9)


@pytest.mark.parametrize("step_size", [None, 0.25])
def test_a_bad_row_beside_good_ones(step_size: float | None) -> None:
    y0 = column(1.0, math.nan, 1e200, 2.0, grad=True)
    options = {"batch": "rows", "throw": False, "step_size": step_size, "solver": "rk4" if step_size else "dopri5"}
    found = solve(
        lambda t, y: y**2 - 2 * y, y0, [0.0, 2.0], events=lambda t, y: y[:, 0] - 0.3, max_steps=200, **options
    )
    good = solve(lambda t, y: y**2 - 2 * y, y0[:1], [0.0, 2.0], events=lambda t, y: y[:, 0] - 0.3, **options)
    assert found.status[0] is Status.EVENT
    assert found.status[3] is Status.SUCCESS
    assert not found.status[1].ok
    assert not found.status[2].ok
    close(found.events[0].ts[0], good.events[0].ts[0], 1e-9)
    (g,) = torch.autograd.grad(found.events[0].ts[0, 0] + found.y1[3].sum(), y0)
    assert bool(g[[0, 3]].isfinite().all())
    assert abs(float(g[0])) > 0.1


def test_nested_complex_and_single_precision_states() -> None:
    def f(t: Tensor, y: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"z": 1j * y["z"], "w": torch.zeros_like(y["w"])}

    y0 = {"z": torch.ones(2, 3, dtype=torch.complex64), "w": torch.zeros(2, dtype=torch.complex64)}
    ball = Event(lambda t, y: y["z"][:, 0].real, jump=lambda t, y: {"z": y["z"], "w": y["w"] + 1})
    found = solve(f, y0, [[0.0, 3.0], [0.0, 6.0]], batch="rows", events=ball)
    assert found.events[0].ys["z"].shape == (2, 2, 3)
    close(found.events[0].ts.nan_to_num().double(), [[math.pi / 2, 0.0], [math.pi / 2, 3 * math.pi / 2]], 1e-3)
    close(found.y1["w"].real.double(), [1.0, 2.0])


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (lambda t, y: y, r"returned a torch.float64 of shape \(2, 2\).* one number a row"),
        (lambda t, y: y[:, 0] > 0, "returned a torch.bool"),
        (lambda t, y: 1.0, "returned 1.0"),
        (lambda t, y: y[:, 0] * math.nan, "returned NaN at t = .* in row 0"),
    ],
)
def test_events_that_are_none(event: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        solve(falling, torch.ones(2, 2, dtype=DOUBLE), [0.0, 1.0], batch="rows", events=event)


# Gradients


class Threshold(nn.Module):
    """A level for every row."""

    def __init__(self, *levels: float) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.tensor(levels, dtype=DOUBLE))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return y[:, 0] - self.levels


@pytest.mark.parametrize("solver", ["dopri5", pytest.param("kvaerno3", marks=pytest.mark.slow)])
@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("terminal", [True, False])
def test_the_times_of_events_have_the_gradients_of_the_closed_form(gradient: str, terminal: bool, solver: str) -> None:
    """y = y0 e^{-a t} meets the level c at t* = log(y0 / c) / a, row by row."""
    y0, a, level = (
        column(2.0, 3.0, 0.4, grad=True),
        nn.Parameter(torch.tensor(0.7, dtype=DOUBLE)),
        Threshold(0.5, 0.6, 0.7),
    )
    event = Event(level, terminal=terminal)
    accuracy = 1e-5 if solver == "kvaerno3" else 1e-6
    tight = {"rtol": 1e-7, "atol": 1e-9} if solver == "kvaerno3" else TIGHT
    found = solve(
        lambda t, y: -a * y, y0, [0.0, 1.0, 4.0], batch="rows", events=event, gradient=gradient, solver=solver, **tight
    )
    ends = torch.log(y0[:2, 0].detach() / level.levels[:2].detach()) / 0.7
    close(found.events[0].ts[:2, 0], ends, accuracy)
    weight = torch.tensor([1.0, 3.0], dtype=DOUBLE)
    of_y0, of_a, of_level = torch.autograd.grad(
        (found.events[0].ts[:2, 0] * weight).sum(), [y0, a, level.levels], retain_graph=True
    )
    close(of_y0[:, 0], [1 / (2 * 0.7), 3 / (3 * 0.7), 0.0], accuracy)
    close(of_a, -(ends * weight).sum() / 0.7, accuracy)
    close(of_level, [-1 / (0.5 * 0.7), -3 / (0.6 * 0.7), 0.0], accuracy)
    (of_level,) = torch.autograd.grad(found.events[0].ys[:2, 0, 0].sum(), level.levels, retain_graph=True)
    close(of_level, [1.0, 1.0, 0.0], accuracy)
    (of_y0,) = torch.autograd.grad(found.ys[1, :, 0].sum(), y0)
    close(of_y0[:, 0], [math.exp(-0.7)] * 3, accuracy)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_gradients_through_bounces(gradient: str) -> None:
    """With respect to heights, restitution, and the level of the floor, which the event and f alone know."""
    h = torch.tensor([10.0, 8.0, 30.0], dtype=DOUBLE, requires_grad=True)
    e, floor = (torch.tensor(x, dtype=DOUBLE, requires_grad=True) for x in (0.9, 0.0))
    ball = Event(lambda t, y: y[:, 0] - floor, direction=-1, jump=lambda t, y: torch.stack([y[:, 0], -e * y[:, 1]], -1))
    y0 = torch.stack([h, torch.zeros_like(h)], -1)
    found = solve(falling, y0, [0.0, 5.0], batch="rows", events=ball, gradient=gradient, **TIGHT)
    assert (~found.events[0].ts.isnan()).sum(1).tolist() == [2, 2, 1]

    fall = torch.sqrt(2 * (h - floor) / G)
    close(found.events[0].ts[:2, 1], (fall * (1 + 2 * e))[:2], 1e-9)
    v, t = torch.stack([e**2, e**2, e]) * G * fall, 5.0 - fall * torch.stack([1 + 2 * e, 1 + 2 * e, torch.ones_like(e)])
    height = floor + v * t - G / 2 * t**2
    close(found.y1[:, 0], height, 1e-8)
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=DOUBLE)
    for ours, theirs in (
        (found.events[0].ts[:2, 1].sum(), (fall * (1 + 2 * e))[:2].sum()),
        ((found.y1[:, 0] * weight).sum(), (height * weight).sum()),
    ):
        got = torch.autograd.grad(ours, [h, e, floor], retain_graph=True)
        wanted = torch.autograd.grad(theirs, [h, e, floor], retain_graph=True)
        for a, b in zip(got, wanted, strict=True):
            close(a, b, 1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_gradients_agree_with_finite_differences(gradient: str) -> None:
    """For a time-dependent f, the initial times included, with a jump on the way to a terminal event."""

    def ends(y0: Tensor, a: Tensor, c: Tensor, t0: Tensor) -> Tensor:
        times = torch.stack([t0, t0 * 0 + 2.0, t0 * 0 + 4.0], 1)
        events = [
            Event(lambda t, y, a, c: y.sum(1) - c * (1 + 0.1 * t[:, 0])),
            Event(lambda t, y, a, c: y[:, 0] - 1.5 * c, direction=-1, jump=lambda t, y, a, c: y * (0.8 - a * t / 20)),
        ]
        found = solve(
            lambda t, y, a, c: -a * y + torch.cos(t) / 5, y0, times, args=(a, c), batch="rows", events=events,
            gradient=gradient, rtol=1e-11, atol=1e-12,
        )  # fmt: skip
        assert found.event == (0, 0, 0)
        assert (~found.events[1].ts.isnan()).sum(1).tolist() == [1, 0, 1]
        return torch.cat([found.events[0].ts[:, 0], found.events[1].ts[[0, 2], 0], found.y1.flatten(), found.ys[2, 1]])

    point = [
        torch.tensor([[2.0, 1.0], [0.9, 1.0], [1.9, 4.0]], dtype=DOUBLE),
        torch.tensor(0.7, dtype=DOUBLE),
        torch.tensor([0.8, 0.9, 0.6], dtype=DOUBLE),
        torch.tensor([0.1, 0.2, 0.0], dtype=DOUBLE),
    ]
    point = [x.requires_grad_() for x in point]
    assert torch.autograd.gradcheck(ends, point, eps=1e-5, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_times_of_rows_that_begin_at_different_times_can_be_differentiated(gradient: str) -> None:
    """dy/dt = t meets the level 2 at t* = (4 + t0²)^½, whether the other rows begin before it or after."""
    t0 = torch.tensor([0.5, -1.0, 1.0], dtype=DOUBLE, requires_grad=True)
    times = torch.stack([t0, torch.full_like(t0, 2.5)], 1)
    found = solve(
        lambda t, y: t + 0 * y, column(0.0, 0.0, 0.0), times, batch="rows", events=lambda t, y: y[:, 0] - 2,
        gradient=gradient, **TIGHT,
    )  # fmt: skip
    ends = torch.sqrt(4 + t0**2)
    close(found.events[0].ts[:, 0], ends, 1e-9)
    (ours,) = torch.autograd.grad(found.events[0].ts.sum(), t0)
    close(ours, (t0 / ends).detach(), 1e-8)


def test_an_event_function_that_is_flat_where_it_changes_sign_gives_no_derivative() -> None:
    event = Event(lambda t, y: torch.where(t[:, 0] < 0.5, -1.0, 1.0) + 0 * y[:, 0])
    with pytest.raises(GradientError, match="is flat where it crosses zero in row 0"):
        solve(decaying, column(1.0, 2.0, grad=True), [0.0, 1.0], batch="rows", events=event)
