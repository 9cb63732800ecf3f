"""What a method and its options come to: a solver, its steps, and the times at which they must end."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from odekit.compat.errors import ArgumentError
from odekit.compat.stepping import FlooredControl, Grid, step_grid
from odekit.compat.wrapped import Differentiated, Linear
from odekit.core.control import FixedStep, PIDControl
from odekit.core.protocols import ODESolver, StepControl

MAX_STEPS = 1_000_000
"""Attempted steps allowed where the caller names no bound; torchdiffeq then has none to speak of."""


@attrs.frozen(eq=False)
class Span:
    """What is to be solved, as far as a grid of steps may depend on it.

    Attributes:
        func, y0: the caller's.
        t: the output times ``[T]``; None where an event ends the solve.
        start: the first of them.
    """

    func: Callable[..., Any]
    y0: Any
    t: Tensor | None
    start: float


@attrs.frozen(eq=False)
class Plan:
    """How a span is solved."""

    solver: ODESolver
    control: StepControl
    max_steps: int = MAX_STEPS
    step_times: tuple[float, ...] = ()
    jump_times: tuple[float, ...] = ()


def adaptive(solver: ODESolver, options: Mapping[str, Any], span: Span) -> Plan:
    """Steps under error control. ``max_num_steps`` is allowed for each output interval."""
    least, first, most = number(options.get("min_step", 0)), options.get("first_step"), options.get("max_num_steps")
    settings: dict[str, Any] = {
        "safety": number(options.get("safety", 0.9)),
        "factor_max": number(options.get("ifactor", 10)),
        "factor_min": number(options.get("dfactor", 0.2)),
        "dt_min": least,
        "dt_max": number(options.get("max_step", math.inf)),
        "first_step": None if first is None else number(first),
    }
    intervals = 1 if span.t is None else max(1, len(span.t) - 1)
    step_times, jump_times = _times(options.get("step_t")), _times(options.get("jump_t"))
    if len({*step_times, *jump_times}) < len(step_times) + len(jump_times):
        raise ArgumentError("step_t and jump_t name a time twice; name each once, in one of them")
    return Plan(
        solver,
        FlooredControl(**settings) if least > 0 else PIDControl(**settings),
        MAX_STEPS if most is None else int(most) * intervals,
        step_times=step_times,
        jump_times=jump_times,
    )


def fixed(solver: ODESolver, options: Mapping[str, Any], span: Span) -> Plan:
    """Steps on a grid: the output times, unless options say otherwise.

    With ``perturb`` f is taken to jump at every point of the grid. ``interp="cubic"`` stands for the solver's own dense
    output.
    """
    interp = options.get("interp", "linear")
    if interp not in ("linear", "cubic"):
        raise ArgumentError(f"interp={interp!r}: expected 'linear' or 'cubic'")
    if interp == "linear":
        solver = Linear(solver)
    size, construct = options.get("step_size"), options.get("grid_constructor")
    if size is not None and construct is not None:
        raise ArgumentError("step_size and grid_constructor are both given; give one of them")
    if size is not None and not number(size) > 0:
        raise ArgumentError(f"step_size={number(size):g}: expected a positive number, backwards in time too")
    if span.t is None:
        if size is None:
            raise ArgumentError("a fixed-step method finds events only with options={'step_size': ...}")
        return Plan(solver, FixedStep(number(size)))
    grid = _grid(span, span.t, size, construct)
    points = _times(grid)
    if grid.requires_grad and torch.is_grad_enabled():
        solver = Differentiated(solver, grid)
    return Plan(solver, Grid(points), max(MAX_STEPS, len(points)), jump_times=points if options.get("perturb") else ())


def _grid(span: Span, t: Tensor, size: Any, construct: Callable[..., Any] | None) -> Tensor:
    """The points of the grid, with the gradient of ``t`` that they have."""
    t = t if t.device.type == "mps" else t.double()
    if size is not None:
        return step_grid(t[0], t[-1], number(size))
    if construct is None:
        return t
    grid = torch.as_tensor(construct(span.func, span.y0, span.t)).to(t).reshape(-1)
    points, times = _times(grid), _times(t)
    ahead = all((b - a) * (times[-1] - times[0]) > 0 for a, b in itertools.pairwise(points))
    if not points or points[0] != times[0] or points[-1] != times[-1] or not ahead:
        raise ArgumentError(
            f"grid_constructor gave {points!s:.80}; expected a strictly monotone grid "
            f"from {times[0]:g} to {times[-1]:g}"
        )
    return grid


def number(value: Any) -> float:
    """An option as a host number."""
    return float(value.detach()) if isinstance(value, Tensor) else float(value)


def _times(value: Any) -> tuple[float, ...]:
    if value is None:
        return ()
    return tuple(float(time) for time in torch.as_tensor(value).detach().reshape(-1).tolist())
