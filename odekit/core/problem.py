"""The checked input of a solve: state packed once, times, direction, tolerances, budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from odekit.core import lanes
from odekit.core.autocast import Autocast
from odekit.core.callbacks import Callbacks
from odekit.core.course import Course
from odekit.core.dense import Kept, Recorder
from odekit.core.events import Event, Watch
from odekit.core.field import Field
from odekit.core.sections import Stops
from odekit.core.solution import Stats
from odekit.core.state import Layout, lay_out
from odekit.core.times import Clock
from odekit.core.tolerance import Norm, Tolerance, checked, default_tolerances, resolve_norm
from odekit.errors import InputError


@attrs.frozen(eq=False)
class Problem:
    """An initial value problem, ready to be solved.

    Attributes:
        field: the dynamics on packed states.
        y0: the packed initial state.
        layout: how states are packed.
        times: the output times as host floats; monotone, the first is t0.
        ts: the same as the caller's tensor.
        max_steps: attempted steps allowed for the whole solve.
        course: what to do on the way.
    """

    field: Field
    y0: Tensor
    layout: Layout
    times: tuple[float, ...]
    ts: Tensor
    tolerance: Tolerance
    max_steps: int
    course: Course = attrs.field(factory=Course)

    @property
    def clock(self) -> Clock:
        """A clock that follows the output times where they are differentiated, or differ between lanes."""
        moving = lanes.has_lanes(self.ts) or (torch.is_grad_enabled() and lanes.differentiated(self.ts))
        wanted = moving and len(self.times) > 1
        return self.clock_of(self.ts if wanted else None)

    def clock_of(self, ts: Tensor | None) -> Clock:
        """A clock whose output times are ``ts``; discontinuities of f stay where they are."""
        return Clock(self.times, ts, tuple(sorted(self.course.stops.jumps)))

    def sparing(self) -> Problem:
        """The same problem for a method that spares memory: steps are kept only if the caller insisted."""
        recorder = self.course.recorder
        if recorder is None or recorder.limit is None:
            return self
        return attrs.evolve(self, course=attrs.evolve(self.course, recorder=None))

    def again(self, field: Field, y0: Tensor, ts: Tensor) -> Problem:
        """The same problem once more, from these tensors: it counts for itself, keeps nothing and calls no hooks."""
        course = attrs.evolve(self.course, recorder=None, callbacks=Callbacks(), stats=Stats())
        return attrs.evolve(self, field=field, y0=y0, ts=ts, course=course)


def pose(
    f: Callable[..., Any],
    y0: Any,
    t: Any,
    *,
    args: Any,
    rtol: Any,
    atol: Any,
    norm: str | Norm,
    max_steps: int,
    adaptive: bool,
    events: tuple[Event, ...] = (),
    step_times: Iterable[float] = (),
    jump_times: Iterable[float] = (),
    every_step: bool = False,
    callbacks: Callbacks | None = None,
    recorder: Recorder[Kept] | None = None,
) -> Problem:
    """Check everything that a caller gives, and pack it.

    Raises:
        InputError: with what came, what was expected and what to type instead.
    """
    if not callable(f):
        raise InputError(f"f is a {type(f).__name__}; expected a callable f(t, y, *args) that returns dy/dt")
    packed, layout = lay_out(y0)
    times, ts = _times(t, packed, endless=any(event.ends for event in events))
    if not isinstance(args, tuple):
        raise InputError(f"args is a {type(args).__name__}; expected a tuple: write args=(x,) for one argument")
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        raise InputError(f"max_steps={max_steps!r}: expected an integer >= 1")
    step_times, jump_times = tuple(step_times), tuple(jump_times)
    if lanes.has_lanes(ts) and (step_times or jump_times):
        raise InputError("step_times and jump_times cannot go with a t that differs between lanes of torch.func.vmap")
    usual_rtol, usual_atol = default_tolerances(packed.dtype, adaptive)
    rtol = layout.pack_tolerance(usual_rtol if rtol is None else rtol, "rtol", packed)
    atol = layout.pack_tolerance(usual_atol if atol is None else atol, "atol", packed)
    tolerance = checked(rtol, atol, packed.dtype, resolve_norm(norm))
    field = Field(f, args, layout, packed, _hull(times, ts), Autocast.ambient(packed.device.type))
    course = Course(
        stops=Stops.of(step_times, jump_times, times[0], times[-1]),
        watches=tuple(Watch(event, layout, args) for event in events),
        every_step=every_step,
        callbacks=Callbacks() if callbacks is None else callbacks.on_packed(layout.unpack),
        recorder=recorder,
    )
    return Problem(field, packed, layout, times, ts, tolerance, max_steps, course)


def _times(t: Any, y: Tensor, endless: bool) -> tuple[tuple[float, ...], Tensor]:
    """The output times on the host, and as the tensor that a caller may differentiate.

    The last one may be infinite if the solve is ``endless`` but for an event.
    """
    if isinstance(t, Tensor):
        ts = t
    elif isinstance(t, Sequence | np.ndarray) and not isinstance(t, str):
        if any(isinstance(value, Tensor) for value in t):
            raise InputError("t is a sequence with tensors in it; join them first: t=torch.stack([...])")
        hosts = _numbers(t)
        _check_shape(hosts.shape)
        ts = torch.tensor(hosts.tolist(), dtype=Field.time_dtype_of(y), device=y.device)
    else:
        raise InputError(
            f"t is a {type(t).__name__}; expected output times [T], such as t=[0.0, 1.0], the first being t0"
        )
    if ts.is_complex() or ts.dtype == torch.bool:
        raise InputError(f"t has dtype {ts.dtype}; times are real numbers")
    if ts.is_meta:
        raise InputError("t is on the meta device, which holds no numbers; make it on a real device")
    _check_shape(tuple(ts.shape))
    times = _host(ts) if isinstance(t, Tensor) else tuple(float(value) for value in hosts.tolist())
    for i, value in enumerate(times):
        if not math.isfinite(value) and not (endless and math.isinf(value) and 0 < i == len(times) - 1):
            only = "; only the last one may be infinite, if there is a terminal event" if math.isinf(value) else ""
            raise InputError(f"t[{i}] is {value}; times must be finite{only}")
    direction = times[-1] - times[0]
    for i in range(1, len(times)):
        if (times[i] - times[i - 1]) * direction < 0 or (direction == 0 and times[i] != times[0]):
            raise InputError(
                f"t is not monotone: t[{i - 1}] = {times[i - 1]:g} is followed by t[{i}] = {times[i]:g}; "
                "sort it in increasing or in decreasing order"
            )
    return times, ts


def _hull(times: tuple[float, ...], ts: Tensor) -> tuple[float, float]:
    """The span, or that of all lanes together."""
    if not lanes.has_lanes(ts):
        return times[0], times[-1]
    everyone = lanes.laid_open(ts)
    return float(everyone.min()), float(everyone.max())


def _host(ts: Tensor) -> tuple[float, ...]:
    """The numbers in ``ts``; where they differ between lanes, those of the lane with the longest span.

    Raises:
        InputError: some lane's times do not lie in its span as those of another.
    """
    lines = lanes.laid_open(ts).tolist()
    times = [float(value) for value in max(lines, key=lambda line: abs(line[-1] - line[0]))]
    span = times[-1] - times[0]
    slack = 64 * torch.finfo(ts.dtype if ts.is_floating_point() else torch.float64).eps
    for line in lines if span else ():
        stuck = line[0] == line[-1] and len(line) > 2
        for there, here in zip(line, times, strict=True):
            share = (here - times[0]) / span
            if stuck or abs(line[0] + share * (line[-1] - line[0]) - there) > slack * max(abs(line[0]), abs(line[-1])):
                raise InputError(
                    "under torch.func.vmap the times in t may be stretched and shifted from lane to lane, but not "
                    f"otherwise: {line!s:.80} beside {times!s:.80}; give the lanes a batch axis of their own and solve "
                    'them with batch="rows", where t is [B, T]'
                )
    return tuple(times)


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) != 1 or shape[0] == 0:
        raise InputError(f"t has shape {shape}; expected [T] with T >= 1, the first being t0")


def _numbers(t: Any) -> np.ndarray:
    try:
        numbers = np.asarray(t)
    except ValueError:  # rows of different lengths
        numbers = np.asarray(None)
    if numbers.size and numbers.dtype.kind not in "iuf":
        raise InputError(f"t={t!r:.80}: expected numbers, such as t=[0.0, 1.0] or torch.linspace(0, 1, 11)")
    return numbers.astype(np.float64)
