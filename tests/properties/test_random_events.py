"""Whatever happens on the way: crossings are those of the closed form, each once and in order, and nothing hangs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from problems import DOUBLE
from strategies import few, many
from torch import Tensor

from odekit import Event, Solution, Status, solve
from odekit.errors import InputError

SAMPLE = ("dopri5", "tsit5", "vern7", "rk4", "adams_bashforth_moulton", "kvaerno3")
STEPS = 2000
CALLS = 200
"""More than an event function is called in one step: four looks, and roots that are bisected to the last digit."""

solvers = st.sampled_from(SAMPLE)
quick = st.sampled_from([name for name in SAMPLE if name != "kvaerno3"])
signs = st.sampled_from([1, -1])
dtypes = st.sampled_from([torch.float32, DOUBLE])


class Looked:
    """An event function, counting its calls."""

    def __init__(self, g: Callable[..., Tensor]) -> None:
        self.g, self.calls = g, 0

    def __call__(self, t: Tensor, y: Tensor, *args: Any) -> Tensor:
        self.calls += 1
        if self.calls > CALLS * STEPS:
            pytest.fail(f"an event function was called {self.calls} times")
        return self.g(t, y, *args)


def attempt(f: Any, y0: Tensor, span: Any, name: str, *events: Event, step: float = 0.02, **options: Any) -> Solution:
    """A solve to 1e-6 (1e-5 in single precision), or in steps of the given length; of a bounded number of steps."""
    tol = 1e-5 if y0.dtype is torch.float32 else 1e-6
    steps = {"step_size": step} if name == "rk4" else {"rtol": tol, "atol": tol}
    found = solve(f, y0, span, solver=name, events=events, max_steps=STEPS, **steps, **options)
    assert int(torch.as_tensor(found.stats.steps).max()) <= STEPS
    return found


# Oscillations, and the levels that they cross


@attrs.frozen(eq=False)
class Level:
    """cos(ω t + φ) crosses ``height``; directions are those along the solve."""

    height: float
    direction: int
    terminal: bool

    def event(self) -> Event:
        return Event(Looked(lambda t, y, *args: y[..., 0] - self.height), self.terminal, self.direction)

    def crossings(self, swing: Swing) -> list[float]:
        """When, in the order of the solve."""
        (t0, t1), angle, times = swing.span, math.acos(self.height), []
        ahead = math.copysign(1, t1 - t0)
        for sense, at in ((-1, angle), (1, -angle)):  # the cosine falls at the angle and rises at minus the angle
            if self.direction in (0, sense * ahead):
                times += [(at + 2 * math.pi * k - swing.phase) / swing.rate for k in range(-20, 20)]
        return sorted((t for t in times if min(t0, t1) <= t <= max(t0, t1)), key=lambda t: abs(t - t0))


@attrs.frozen(eq=False)
class Swing:
    """y = (cos(ω t + φ), -sin(ω t + φ)) over a span, in either direction."""

    rate: float
    phase: float
    span: tuple[float, float]

    def start(self, dtype: torch.dtype) -> Tensor:
        angle = self.rate * self.span[0] + self.phase
        return torch.tensor([math.cos(angle), -math.sin(angle)], dtype=dtype)


def turning(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
    return torch.stack([rate * y[..., 1], -rate * y[..., 0]], -1)


@st.composite
def swings(draw: st.DrawFn) -> Swing:
    """Up to nine radians."""
    rate, t0 = draw(st.floats(0.5, 3.0)), draw(st.sampled_from([0.0, -2.0, 1.5]))
    length = draw(st.floats(0.5, 9.0)) / rate
    return Swing(rate, draw(st.floats(0, 2 * math.pi)), (t0, t0 + draw(signs) * length))


levels = st.lists(
    st.builds(Level, st.floats(-0.7, 0.7), st.sampled_from([-1, 0, 1]), st.booleans()), min_size=1, max_size=3
)


def expected(swing: Swing, watched: list[Level], margin: float) -> tuple[list[list[float]], int | None]:
    """The crossings of each level up to the end, and the level that ended the solve.

    Leaves out what hangs on the last digits: crossings at an end of the span, and beside one that ends it.
    """
    times = [level.crossings(swing) for level in watched]
    t0, t1 = swing.span
    everything = sorted((abs(t - t0), k) for k, found in enumerate(times) for t in found)
    assume(all(margin < s < abs(t1 - t0) - margin for s, _ in everything))
    last = next(((s, k) for s, k in everything if watched[k].terminal), None)
    if last is None:
        return times, None
    assume(sum(abs(s - last[0]) < margin for s, _ in everything) == 1)
    return [[t for t in found if abs(t - t0) <= last[0]] for found in times], last[1]


def check_swing(name: str, swing: Swing, watched: list[Level], dtype: torch.dtype) -> None:
    tol = (5e-3 if dtype is torch.float32 else 5e-4) / swing.rate
    times, ended = expected(swing, watched, 4 * tol)
    rate = torch.tensor(swing.rate, dtype=dtype)
    events = [level.event() for level in watched]
    found = attempt(turning, swing.start(dtype), swing.span, name, *events, args=(rate,))
    assert (found.status, found.event) == (Status.SUCCESS if ended is None else Status.EVENT, ended)
    for log, wanted in zip(found.events, times, strict=True):
        assert log.ts.tolist() == pytest.approx(wanted, abs=tol)
    if ended is not None:
        assert float(found.t1) == pytest.approx(times[ended][-1], abs=tol)
        assert float(found.y1[0]) == pytest.approx(watched[ended].height, abs=1e-5)


def check_rows(name: str, rows: list[Swing], watched: list[Level]) -> None:
    """Each row has its own rate, phase, span and direction, and meets its own crossings."""
    tol = 5e-4 / min(swing.rate for swing in rows)
    wanted = [expected(swing, watched, 4 * tol) for swing in rows]
    found = attempt(
        turning, torch.stack([swing.start(DOUBLE) for swing in rows]),
        torch.tensor([swing.span for swing in rows], dtype=DOUBLE), name, *(level.event() for level in watched),
        args=(torch.tensor([swing.rate for swing in rows], dtype=DOUBLE),), batch="rows",
    )  # fmt: skip
    assert list(found.event) == [ended for _, ended in wanted]
    for b, (times, _) in enumerate(wanted):
        for log, one in zip(found.events, times, strict=True):
            assert log.ts[b][~log.ts[b].isnan()].tolist() == pytest.approx(one, abs=tol)


# Bounces


def check_bounces(name: str, height: float, restitution: float, ahead: int) -> None:
    """A ball that is dropped on a floor, forwards in time or, with f turned round, backwards."""

    def falling(t: Tensor, y: Tensor) -> Tensor:
        return ahead * torch.stack([y[1], -torch.ones_like(y[1])])

    first = math.sqrt(2 * height)
    times = [first]
    while len(times) < 4:
        times.append(times[-1] + 2 * first * restitution ** len(times))
    end = (times[-1] + times[-2]) / 2
    ball = Event(Looked(lambda t, y: y[0]), direction=-1, jump=lambda t, y: torch.stack([y[0], -restitution * y[1]]))
    found = attempt(falling, torch.tensor([height, 0.0], dtype=DOUBLE), (0.0, ahead * end), name, ball)
    assert found.status is Status.SUCCESS
    assert found.events[0].ts.tolist() == pytest.approx([ahead * t for t in times[:-1]], abs=1e-4)
    left, speed = end - times[-2], first * restitution ** (len(times) - 1)
    assert float(found.y1[0]) == pytest.approx(speed * left - left**2 / 2, abs=1e-4)


# The ends of the span, touches, and values that are not numbers


def moving(t: Tensor, y: Tensor) -> Tensor:
    return torch.ones_like(y)


def check_ends(name: str, t0: float, length: float, direction: int) -> None:
    """A start on the surface is no crossing; an end on it is one, at exactly that time."""
    t1, y0 = t0 + length, torch.zeros(1, dtype=DOUBLE)
    for terminal in (True, False):
        left = Event(Looked(lambda t, y: t - t0), terminal, direction)
        begun = attempt(moving, y0, (t0, t1), name, left)
        assert (begun.status, len(begun.events[0].ts)) == (Status.SUCCESS, 0)
        reached = attempt(moving, y0, (t0, t1), name, Event(Looked(lambda t, y: t - t1), terminal, direction))
        wanted = direction in (0, math.copysign(1, length))
        assert reached.events[0].ts.tolist() == ([t1] if wanted else [])
        assert reached.status is (Status.EVENT if wanted and terminal else Status.SUCCESS)


def check_touch(name: str, at: float, gap: float, sign: int) -> None:
    """A parabola over zero is never crossed; one that dips under it is, twice, if the dip is as wide as the looks."""
    y0 = torch.zeros(1, dtype=DOUBLE)
    above = Event(Looked(lambda t, y: sign * ((t - at) ** 2 + gap)), terminal=False)
    assert attempt(moving, y0, (0.0, 1.0), name, above).events[0].ts.tolist() == []
    touching = Event(Looked(lambda t, y: sign * (y[0] - at) ** 2), terminal=False)
    for t in attempt(moving, y0, (0.0, 1.0), name, touching).events[0].ts.tolist():
        assert t == pytest.approx(
            at, abs=1e-7
        )  # where rounding gives exactly zero, it is not to be told from a crossing


def check_nan(name: str, begin: float, width: float, terminal: bool) -> None:
    """A function that is not a number for a while: an error that says when, or a right crossing before it."""

    def g(t: Tensor, y: Tensor) -> Tensor:
        return torch.where((t >= begin) & (t <= begin + width), torch.nan, y[0] - 0.5)

    try:
        found = attempt(moving, torch.zeros(1, dtype=DOUBLE), (0.0, 1.0), name, Event(Looked(g), terminal))
        times, words = found.events[0].ts.tolist(), ""
    except InputError as error:
        times, words = [0.5], str(error)
    assert not words or "returned NaN at t = " in words
    assert times == pytest.approx([0.5], abs=1e-9)
    if begin <= 0.5 <= begin + width:
        assert words


CHECKS: dict[str, tuple[Callable[..., None], dict[str, Any]]] = {
    "swing": (check_swing, {"swing": swings(), "watched": levels, "dtype": dtypes}),
    "rows": (check_rows, {"rows": st.lists(swings(), min_size=1, max_size=3), "watched": levels}),
    "bounces": (check_bounces, {"height": st.floats(0.1, 3), "restitution": st.floats(0.3, 0.95), "ahead": signs}),
    "ends": (
        check_ends,
        {
            "t0": st.floats(-3, 3),
            "length": st.floats(0.25, 2).flatmap(lambda x: st.sampled_from([x, -x])),
            "direction": st.sampled_from([-1, 0, 1]),
        },
    ),
    "touch": (check_touch, {"at": st.floats(0, 1), "gap": st.floats(1e-12, 1e-2), "sign": signs}),
    "nan": (check_nan, {"begin": st.floats(0, 1), "width": st.floats(0.01, 1), "terminal": st.booleans()}),
}
check_names = pytest.mark.parametrize("check", CHECKS)


@check_names
@few
@given(name=quick, data=st.data())
def test_events(check: str, name: str, data: st.DataObject) -> None:
    run, drawn = CHECKS[check]
    run(name, **{key: data.draw(value, key) for key, value in drawn.items()})


@pytest.mark.slow
@check_names
@many
@given(name=solvers, data=st.data())
def test_more_events(check: str, name: str, data: st.DataObject) -> None:
    run, drawn = CHECKS[check]
    run(name, **{key: data.draw(value, key) for key, value in drawn.items()})
