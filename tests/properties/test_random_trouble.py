"""Whatever goes wrong ends in an error of odekit's or in a status, within the steps that are allowed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import DOUBLE, solver_class
from strategies import few, many, solvers
from torch import Tensor

from odekit import Solution, Status, solve
from odekit.errors import DynamicsError, InputError, SolveError

STEPS = 300
CALLS = 300_000
"""More than any solver calls f in so many steps."""

Dynamics = Callable[[Tensor, Tensor], Any]


class Watched:
    """f, which must not be called for ever."""

    def __init__(self, f: Dynamics) -> None:
        self.f, self.calls = f, 0

    def __call__(self, t: Tensor, y: Tensor) -> Any:
        self.calls += 1
        if self.calls > CALLS:
            pytest.fail(f"f was called {CALLS} times")
        return self.f(t, y)


def attempt(f: Dynamics, y0: Tensor, span: tuple[float, float], name: str, **options: Any) -> Solution:
    if solver_class(name).error_order is None:
        options["step_size"] = abs(span[1] - span[0]) / 40
    else:
        options = {"rtol": 1e-4, "atol": 1e-6} | options
    found = solve(Watched(f), y0, span, solver=name, max_steps=STEPS, throw=False, **options)
    assert found.stats.steps <= STEPS
    assert isinstance(found.status, Status)
    low, high = min(span), max(span)
    assert low <= found.t1 <= high
    return found


def blow_up(t: Tensor, y: Tensor) -> Tensor:
    return y**2


def singular(t: Tensor, y: Tensor) -> Tensor:
    return -1 / y


def fades(t: Tensor, y: Tensor) -> Tensor:
    """NaN from t = 1/2 on."""
    return torch.where(t < 0.5, -y, torch.full_like(y, math.nan))


def overflows(t: Tensor, y: Tensor) -> Tensor:
    return torch.exp(y * 1e3)


def jumps(t: Tensor, y: Tensor) -> Tensor:
    return torch.where(t < 1 / 3, y, -y)


def chatters(t: Tensor, y: Tensor) -> Tensor:
    """Slides along y = 0, where f changes its sign."""
    return -torch.sign(y)


def rough(t: Tensor, y: Tensor) -> Tensor:
    """Something like noise: a function of t that no step is short enough for."""
    return torch.sin(1e9 * t) * torch.ones_like(y) * 1e3


TROUBLE: dict[str, Dynamics] = {f.__name__: f for f in (blow_up, singular, fades, overflows, jumps, chatters, rough)}
HOPELESS = ("blow_up", "fades", "overflows")

troubles = st.sampled_from(sorted(TROUBLE))
shapes = st.sampled_from([(), (1,), (2, 3)])


def check_trouble(name: str, trouble: str, shape: tuple[int, ...], sign: int) -> None:
    f, span = TROUBLE[trouble], (0.0, 3.0)
    y0 = torch.full(shape, 1.0, dtype=DOUBLE)
    if sign < 0:  # the same curves, gone through backwards

        def backwards(t: Tensor, y: Tensor) -> Tensor:
            return -f(-t, y)

        found = attempt(backwards, y0, (0.0, -3.0), name)
    else:
        found = attempt(f, y0, span, name)
    assert found.status.ok == bool(torch.isfinite(found.ys).all())
    if trouble in HOPELESS and solver_class(name).error_order is not None:
        assert not found.status.ok


@few
@given(solvers, troubles, shapes, st.sampled_from([1, -1]))
def test_trouble_ends_in_a_status(name: str, trouble: str, shape: tuple[int, ...], sign: int) -> None:
    check_trouble(name, trouble, shape, sign)


@pytest.mark.slow
@many
@given(solvers, troubles, shapes, st.sampled_from([1, -1]))
def test_more_trouble_ends_in_a_status(name: str, trouble: str, shape: tuple[int, ...], sign: int) -> None:
    check_trouble(name, trouble, shape, sign)


@few
@given(solvers, st.sampled_from([math.nan, math.inf, -math.inf]), st.integers(0, 5))
def test_a_start_that_is_not_finite(name: str, value: float, place: int) -> None:
    y0 = torch.ones(6, dtype=DOUBLE)
    y0[place] = value
    found = attempt(lambda t, y: -y, y0, (0.0, 1.0), name)
    assert not found.status.ok
    assert found.status is not Status.MAX_STEPS


@few
@given(solvers, st.floats(0.05, 0.95))
def test_what_f_raises_comes_out_as_it_is(name: str, when: float) -> None:
    class Broken(Exception):
        pass

    def f(t: Tensor, y: Tensor) -> Tensor:
        if t > when:
            raise Broken
        return -y

    with pytest.raises(Broken):
        attempt(f, torch.ones(2, dtype=DOUBLE), (0.0, 1.0), name)


JUNK: dict[str, Any] = {
    "nothing": None,
    "text": "dy/dt",
    "a number": 1.0,
    "another shape": torch.ones(3, dtype=DOUBLE),
    "another dtype": torch.ones(2, dtype=torch.float32),
    "whole numbers": torch.ones(2, dtype=torch.int64),
    "a tuple": (torch.ones(2, dtype=DOUBLE),),
}


@few
@given(solvers, st.sampled_from(sorted(JUNK)))
def test_junk_from_f_is_an_error(name: str, kind: str) -> None:
    with pytest.raises(DynamicsError):
        attempt(lambda t, y: JUNK[kind], torch.ones(2, dtype=DOUBLE), (0.0, 1.0), name)


BAD_OPTIONS: dict[str, dict[str, Any]] = {
    "negative rtol": {"rtol": -1e-3},
    "NaN rtol": {"rtol": math.nan},
    "no tolerance": {"rtol": 0.0, "atol": 0.0},
    "negative atol": {"atol": -1.0},
    "atol of another shape": {"atol": torch.ones(3, dtype=DOUBLE)},
    "times back and forth": {"t": [0.0, 1.0, 0.5]},
    "NaN time": {"t": [0.0, math.nan]},
    "infinite time": {"t": [0.0, math.inf]},
    "no times": {"t": []},
    "times of another rank": {"t": [[0.0, 1.0]]},
    "whole numbers": {"y0": torch.ones(2, dtype=torch.int64)},
    "no tensor": {"y0": "one"},
    "no steps": {"max_steps": 0},
    "half a step": {"max_steps": 0.5},
    "step of nothing": {"step_size": 0.0},
    "step backwards": {"step_size": -0.1},
    "unknown norm": {"norm": "rsm"},
    "unknown batch": {"batch": "row"},
    "unknown option": {"rtoll": 1e-3},
}


@pytest.mark.parametrize("kind", BAD_OPTIONS)
@few
@given(name=solvers)
def test_bad_input_is_an_input_error(kind: str, name: str) -> None:
    options: dict[str, Any] = {"y0": torch.ones(2, dtype=DOUBLE), "t": [0.0, 1.0]}
    if solver_class(name).error_order is None:
        options["step_size"] = 0.1
    options |= BAD_OPTIONS[kind]
    with pytest.raises(InputError):
        solve(lambda t, y: -y, options.pop("y0"), options.pop("t"), solver=name, **options)


@few
@given(solvers, st.sampled_from(HOPELESS))
def test_a_failed_solve_raises_and_says_how_far_it_came(name: str, trouble: str) -> None:
    if solver_class(name).error_order is None:
        return
    with pytest.raises(SolveError) as raised:
        solve(TROUBLE[trouble], torch.ones(2, dtype=DOUBLE), (0.0, 3.0), solver=name, max_steps=STEPS, rtol=1e-4)
    solution = raised.value.solution
    assert solution is not None
    assert raised.value.status is solution.status
    assert bool(torch.isfinite(solution.y1).all())
