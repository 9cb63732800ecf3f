"""Rows with events beside everything else that a solve can do: each row gets what it gets alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from problems import DOUBLE, GRADIENTS, close
from torch import Tensor

from odekit import Callbacks, Event, Solution, Status, solve
from odekit.errors import GradientError, InputError

B = 4
TIGHT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-12}
LOOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-7}
MU = torch.linspace(0.5, 2.0, B, dtype=DOUBLE)
Y0 = torch.stack([torch.linspace(0.6, 1.4, B, dtype=DOUBLE), torch.zeros(B, dtype=DOUBLE)], -1)
SPANS = torch.tensor([[0.0, 2.0, 9.0], [1.0, -1.0, -4.0], [0.3, 0.7, 1.1], [4.5, 1.0, -0.5]], dtype=DOUBLE)
JUMPS = [0.8, 2.5]


def swinging(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
    """A pendulum that is pushed from t = 0.8 to t = 2.5."""
    x, v = y.unbind(-1)
    push = torch.where((t.reshape(-1) < JUMPS[0]) | (t.reshape(-1) > JUMPS[1]), 0.0, 0.4)
    return torch.stack([v, push - mu * torch.sin(x) - 0.1 * v], -1)


def bounced(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
    return torch.stack([y[:, 0], -0.9 * y[:, 1]], -1)


EVENTS = [
    Event(lambda t, y, mu: y[:, 0] - 0.1, direction=-1, jump=bounced),
    Event(lambda t, y, mu: y[:, 1] + 0.05, terminal=False),
    Event(lambda t, y, mu: y[:, 1] - 0.9),
]  # fmt: skip
CHOICES: list[Any] = [
    {"solver": "dopri5"},
    {"solver": "rk4", "step_size": 0.13},
    pytest.param({"solver": "kvaerno3"}, marks=pytest.mark.slow),
    {"solver": "adams_bashforth_moulton"},  # row after row
]


def together(spans: Tensor = SPANS, **options: Any) -> Solution:
    return solve(swinging, Y0, spans, args=(MU,), batch="rows", events=EVENTS, **{**LOOSE, **options})


def alone(b: int, spans: Tensor = SPANS, **options: Any) -> Solution:
    one = slice(b, b + 1)
    return solve(swinging, Y0[one], spans[b], args=(MU[one],), events=EVENTS, **{**LOOSE, **options})


def padded(found: Tensor, expected: Tensor, tol: float) -> None:
    """The same, and NaN behind it."""
    close(found[: len(expected)], expected, tol)
    assert bool(found[len(expected) :].isnan().all())


def test_the_rows_meet_jumps_and_ends_in_both_directions() -> None:
    found = together()
    assert set(found.event or ()) == {None, 2}
    assert int((~found.events[0].ts.isnan()).sum(1).max()) >= 2
    assert found.events[1].ts.shape[1] >= 2


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("options", CHOICES)
def test_every_step_is_that_of_the_row_alone(options: dict[str, Any], grad: bool) -> None:
    options = {"save": "steps", "step_times": [1.7, 99.0], "jump_times": JUMPS, **options}
    with torch.set_grad_enabled(grad):
        found = together(**options)
        assert found.ys.shape == (*found.ts.shape, 2)
        for b in range(B):
            expected = alone(b, **options)
            padded(found.ts[b], expected.ts, 1e-8)
            padded(found.ys[b], expected.ys[:, 0], 1e-8)
            assert found.status[b] is expected.status
            assert int(found.stats.accepted[b]) == expected.stats.accepted
            padded(found.events[1].ts[b], expected.events[1].ts, 1e-8)
        assert any(1.7 in row for row in found.ts.tolist())


@pytest.mark.parametrize("options", CHOICES)
def test_forced_stops_are_those_of_the_row_alone(options: dict[str, Any]) -> None:
    options = {"step_times": [1.7], "jump_times": JUMPS, **options}
    found = together(**options)
    for b in range(B):
        expected = alone(b, **options)
        torch.testing.assert_close(found.ys[b], expected.ys[:, 0], rtol=1e-8, atol=1e-8, equal_nan=True)
        close(found.y1[b], expected.y1[0], 1e-8)
        assert int(found.stats.steps[b]) == expected.stats.steps
        for log, log_alone in zip(found.events, expected.events, strict=True):
            padded(log.ts[b], log_alone.ts, 1e-8)
            padded(log.ys[b], log_alone.ys[:, 0], 1e-8)


@pytest.mark.parametrize("options", CHOICES)
def test_dense_output_is_that_of_the_row_alone(options: dict[str, Any]) -> None:
    options = {"dense": True, "jump_times": JUMPS, **options}
    found = together(**options)
    begin, end = SPANS[:, :1], found.t1[:, None]
    at = begin + (end - begin) * torch.linspace(0, 1, 23, dtype=DOUBLE)
    states, slopes = found.interpolate(at), found.derivative(at)
    for b in range(B):
        expected = alone(b, **options)
        low, high = sorted((float(begin[b]), expected.t1))  # whose event may differ in the last digit
        close(states[b], expected.interpolate(at[b].clamp(low, high))[:, 0], 1e-7)
        close(slopes[b], expected.derivative(at[b].clamp(low, high))[:, 0], 1e-6)
    happened = ~found.events[0].ts.isnan()
    before = found.interpolate(torch.where(happened, found.events[0].ts, begin))
    close(before[happened], found.events[0].ys[happened], 1e-9)
    row = int((end - SPANS[:, -1:]).abs()[:, 0].argmax())
    beyond = at[:, :1].clone()
    beyond[row] = end[row] + (SPANS[row, -1] - end[row]) * 1e-3
    for solution, where in ((found, beyond), (alone(row, **options), beyond[row])):
        with pytest.raises(InputError, match="outside what"):
            solution.interpolate(where)


@pytest.mark.parametrize("solver", ["dopri5", "adams_bashforth_moulton"])
def test_the_earlier_state_answers_where_a_row_jumps(solver: str) -> None:
    """dy/dt = -y, doubled at t = log 2 k: between 1 and 1/2, in rows that jump and in one that does not."""
    y0 = torch.tensor([[1.0], [0.4], [1.0]], dtype=DOUBLE)
    spans = torch.tensor([[0.0, 3.0], [0.0, 3.0], [0.0, -3.0]], dtype=DOUBLE)

    signs = torch.tensor([[1.0], [1.0], [-1.0]], dtype=DOUBLE)
    event = Event(lambda t, y, signs: y[:, 0] - 0.5, jump=lambda t, y, signs: 2 * y)
    found = solve(
        lambda t, y, signs: -signs * y,
        y0,
        spans,
        args=(signs,),
        batch="rows",
        events=event,
        solver=solver,
        dense=True,
        **TIGHT,
    )
    at = torch.tensor([0.3, math.log(2) - 1e-9, math.log(2) + 1e-6, 1.5, 2.9], dtype=DOUBLE)
    states = found.interpolate(torch.stack([at, at, -at]))[..., 0]
    exact = torch.exp(-(at % math.log(2)))
    close(states, torch.stack([exact, 0.4 * torch.exp(-at), exact]), 1e-7)
    close(found.interpolate(found.events[0].ts[:, :1].nan_to_num())[[0, 2], 0, 0], [0.5, 0.5], 1e-8)


@pytest.mark.parametrize("options", CHOICES)
def test_hooks_are_told_what_the_row_alone_tells_them(options: dict[str, Any]) -> None:
    def hooks(log: list[list[Any]], starts: np.ndarray) -> Callbacks:
        def note(kind: str) -> Any:
            def hook(t0: Any, t1: Any, y: Tensor) -> None:
                ends = np.atleast_1d(t0), np.atleast_1d(t1)
                for row in np.flatnonzero(ends[0] != ends[1]):
                    log[row].append((kind, ends[0][row], ends[1][row], *y[row].tolist()))

            return hook

        last = starts.copy()

        def reached(t: Any, y: Tensor) -> None:
            for row in np.flatnonzero(np.atleast_1d(t) != last):
                last[row] = np.atleast_1d(t)[row]
                log[row].append(("reached", last[row], *y[row].tolist()))

        return Callbacks(note("attempt"), note("accept"), note("reject"), reached)

    logs: list[list[Any]] = [[] for _ in range(B)]
    found = together(callback=hooks(logs, SPANS[:, 0].numpy()), **options)
    for b in range(B):
        expected: list[list[Any]] = [[]]
        alone(b, callback=hooks(expected, SPANS[b, :1].numpy()), **options)
        assert [entry[0] for entry in logs[b]] == [entry[0] for entry in expected[0]]
        for ours, theirs in zip(logs[b], expected[0], strict=True):
            assert ours[1:] == pytest.approx(theirs[1:], rel=1e-7, abs=1e-8)
        assert logs[b][-1][1] == found.t1[b]


@pytest.mark.parametrize("options", CHOICES)
def test_an_end_may_be_infinite_beside_finite_ones(options: dict[str, Any]) -> None:
    inf = math.inf
    spans = torch.tensor([[0.0, 1.0, inf], [2.0, 1.0, -inf], [0.0, inf, inf], [0.5, 0.6, 0.7]], dtype=DOUBLE)
    event = Event(lambda t, y, mu: y[:, 0] - 0.1 * mu)
    found = solve(swinging, Y0, spans, args=(MU,), batch="rows", events=event, **LOOSE, **options)
    assert [*found.status] == [Status.EVENT] * 3 + [Status.SUCCESS]
    for b in range(B):
        one = slice(b, b + 1)
        times = spans[b, :2] if b == 2 else spans[b]
        expected = solve(swinging, Y0[one], times, args=(MU[one],), events=event, **LOOSE, **options)
        close(found.t1[b], expected.t1, 1e-9)
        close(found.y1[b], expected.y1[0], 1e-9)
        states = found.ys[b, : len(times)]
        torch.testing.assert_close(states, expected.ys[:, 0], rtol=1e-9, atol=1e-9, equal_nan=True)
        assert bool(found.ys[b][spans[b].isinf()].isnan().all())
    close(found.interpolate(found.t1[:, None])[:, 0], found.y1, 1e-9)


def test_an_infinite_time_needs_a_terminal_event() -> None:
    y0 = torch.ones(2, 1, dtype=DOUBLE)
    event = Event(lambda t, y: y[:, 0] - 0.5, terminal=False)
    for t in ([0.0, math.inf], [[0.0, math.inf], [0.0, 1.0]]):
        with pytest.raises(InputError, match="finite"):
            solve(lambda t, y: -y, y0, t, batch="rows", events=event)
    for t in ([[math.inf, 0.0], [0.0, 1.0]], [[0.0, math.inf, 1.0], [0.0, 1.0, 1.0]], [[0.0, math.nan], [0.0, 1.0]]):
        with pytest.raises(InputError, match="finite"):
            solve(lambda t, y: -y, y0, t, batch="rows", events=lambda t, y: y[:, 0] - 0.5)


@pytest.mark.parametrize("solver", ["dopri5", "rk4", "adams_bashforth_moulton"])
def test_an_event_that_never_happens_uses_up_the_steps_of_its_row(solver: str) -> None:
    fixed = {"step_size": 0.1} if solver == "rk4" else {}
    y0, options = (
        torch.tensor([[1.0], [-1.0]], dtype=DOUBLE),
        {"max_steps": 80, "throw": False, "solver": solver, **fixed},
    )
    found = solve(lambda t, y: -y, y0, [0.0, math.inf], batch="rows", events=lambda t, y: y[:, 0] - 0.5, **options)
    assert [*found.status] == [Status.EVENT, Status.MAX_STEPS]
    close(found.t1[0], math.log(2), 1e-4)
    assert found.stats.steps[1] == 80


# Gradients


def gradients(options: dict[str, Any], row: int | None = None) -> list[Tensor]:
    """Of a loss of everything that comes out, with respect to states, parameters and times."""
    rows = slice(None) if row is None else slice(row, row + 1)
    y0, mu, spans = (x[rows].clone().requires_grad_() for x in (Y0, MU, SPANS))
    options = {"events": EVENTS, "args": (mu,), "jump_times": JUMPS, **options}
    if row is None:
        found = solve(swinging, y0, spans, batch="rows", **options)
    else:
        found = solve(swinging, y0, spans[0], **options)
    weight = torch.tensor([1.0, 2.0], dtype=DOUBLE)
    loss = (found.y1 * weight).sum() + (found.ys.nan_to_num() * weight).sum()
    for log in found.events:
        loss = loss + (log.ts.nan_to_num() ** 2).sum() + (log.ys.nan_to_num() * weight).sum()
    if options.get("save") == "steps":
        loss = loss + (found.ts.nan_to_num() ** 2).sum()
    if options.get("dense"):
        ends = torch.stack([spans[:, 0], torch.as_tensor(found.t1, dtype=DOUBLE).reshape(-1)], 1).detach()
        at = torch.lerp(ends[:, :1], ends[:, 1:], torch.tensor([0.31, 0.52, 0.77], dtype=DOUBLE))
        states = found.interpolate(at if row is None else at[0])
        loss = loss + (states * weight).sum()
    return list(torch.autograd.grad(loss, [y0, mu, spans]))


@pytest.mark.parametrize(
    ("gradient", "solver", "more"),
    [
        ("direct", "dopri5", {"save": "steps"}),
        ("direct", "dopri5", {"dense": True}),
        ("checkpointed", "dopri5", {"save": "steps"}),
        ("checkpointed", "dopri5", {}),
        ("checkpointed", "adams_bashforth_moulton", {"save": "steps"}),
        pytest.param("direct", "kvaerno3", {"save": "steps"}, marks=pytest.mark.slow),
        pytest.param("checkpointed", "kvaerno3", {}, marks=pytest.mark.slow),
        pytest.param("direct", "adams_bashforth_moulton", {"dense": True}, marks=pytest.mark.slow),
    ],
)
def test_exact_gradients_are_those_of_the_row_alone(gradient: str, solver: str, more: dict[str, Any]) -> None:
    options = {"gradient": gradient, "solver": solver, "rtol": 1e-3, "atol": 1e-4, **more}
    rows = gradients(options)
    for b in range(B):
        for found, expected in zip(rows, gradients(options, b), strict=True):
            torch.testing.assert_close(found[b : b + 1], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"save": "steps"}])
def test_the_adjoint_gives_the_exact_gradient_at_tight_tolerances(more: dict[str, Any]) -> None:
    options = {"rtol": 1e-9, "atol": 1e-10, **more}
    exact = gradients({"gradient": "direct", **options})
    for found, expected in zip(gradients({"gradient": "adjoint", **options}), exact, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gradient", ["checkpointed", "adjoint"])
def test_other_gradient_methods_keep_steps_if_told_to(gradient: str) -> None:
    y0 = Y0.clone().requires_grad_()
    options = {"args": (MU,), "batch": "rows", "events": EVENTS, "gradient": gradient, **LOOSE}
    with pytest.raises(InputError, match="solve with dense"):
        solve(swinging, y0, SPANS, **options).interpolate(SPANS[:, :1])
    found = solve(swinging, y0, SPANS, dense=True, **options).interpolate(SPANS[:, :1])
    with pytest.raises(GradientError, match="direct"):
        found.sum().backward()


def points(gradient: str, solver: str, *inputs: Tensor) -> Tensor:
    """What rows with jumps of the state and of f give: outputs, events and ends, in both directions of time."""
    y0, mu, level, t0 = inputs
    times = torch.stack([t0, torch.full_like(t0, 2.0), torch.full_like(t0, 3.0)], 1)
    signs = torch.tensor([1.0, 1.0, -1.0], dtype=DOUBLE)[:, None]

    def f(t: Tensor, y: Tensor, signs: Tensor) -> Tensor:
        return signs * (mu * torch.where(t.abs() < 1.0, -y, y / 2) + torch.cos(t) / 5)

    def jump(t: Tensor, y: Tensor, signs: Tensor) -> Tensor:
        return y * (1.8 + level[1] * t / 20)

    events = [
        Event(lambda t, y, signs: y.sum(1) - level[0], direction=-1, jump=jump),
        Event(lambda t, y, signs: y[:, 1] - level[1], terminal=False),
    ]
    found = solve(
        f, y0, signs * times, args=(signs,), batch="rows", events=events, gradient=gradient, solver=solver,
        jump_times=[-1.0, 1.0], rtol=1e-9, atol=1e-10,
    )  # fmt: skip
    assert (~found.events[0].ts.isnan()).sum(1).tolist() == [1, 0, 1]
    parts = [found.ys, found.y1, *(log.ts for log in found.events), *(log.ys for log in found.events)]
    return torch.cat([part.flatten().nan_to_num() for part in parts])


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["dopri5", "adams_bashforth_moulton"])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_gradients_agree_with_finite_differences(gradient: str, solver: str) -> None:
    values: list[Any] = [[[1.1, 1.0], [2.9, 2.7], [1.1, 0.9]], 0.7, [1.4, 1.1], [0.1, 0.3, 0.2]]
    point = [torch.tensor(value, dtype=DOUBLE, requires_grad=True) for value in values]
    found = points(gradient, solver, *point)
    generator = torch.Generator().manual_seed(0)
    weight = torch.rand(found.shape, dtype=DOUBLE, generator=generator)
    grads = torch.autograd.grad((found * weight).sum(), point)
    for x, grad in zip(point, grads, strict=True):
        way = torch.rand(x.shape, dtype=DOUBLE, generator=generator)
        with torch.no_grad():
            ahead, behind = (
                points(gradient, solver, *(z + step * way if z is x else z for z in point)) for step in (1e-5, -1e-5)
            )
        close((grad * way).sum(), ((ahead - behind) * weight).sum() / 2e-5, 1e-5)
