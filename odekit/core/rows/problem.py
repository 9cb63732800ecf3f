"""The checked input of a solve by rows."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import optree
import torch
from torch import Tensor

from odekit.core.dense import Recorder
from odekit.core.problem import Problem
from odekit.core.rows.clock import RowClock
from odekit.core.rows.course import RowCourse
from odekit.core.rows.field import RowDynamics
from odekit.core.rows.hooks import RowHooks
from odekit.core.rows.stops import RowStops
from odekit.core.rows.tolerance import RowTolerance
from odekit.core.rows.watch import RowWatch
from odekit.core.state import Layout
from odekit.core.times import RowTimes, on_host
from odekit.errors import InputError


@attrs.frozen(eq=False)
class RowProblem:
    """B initial value problems of one kind, ready to be solved.

    Attributes:
        dynamics: of all rows, on packed states.
        y0: the packed initial states, ``[B, ...]``.
        layout: how states are packed.
        times: ``[B, T]``, the output times on the host; each row is monotone, its first time is its t0. The last ones
            of a row may be infinite if there is a terminal event.
        ts: the same as the caller's tensor, ``[B, T]``.
        own: whether the caller gave times for every row, rather than the same ``[T]`` for all.
        tolerance: by row.
        max_steps: attempted steps allowed for each row.
        course: what to do on the way.
    """

    dynamics: RowDynamics
    y0: Tensor
    layout: Layout
    times: np.ndarray
    ts: Tensor
    tolerance: RowTolerance
    max_steps: int
    own: bool
    course: RowCourse = attrs.field(factory=RowCourse)

    @property
    def start(self) -> Start:
        """Where f can be called."""
        return Start(self.dynamics, self.y0, (RowTimes(self.times[:, 0]),), self.ts)

    @property
    def clock(self) -> RowClock:
        """A clock through which the output times can be differentiated, if they ask for it."""
        wanted = self.ts.requires_grad and torch.is_grad_enabled() and self.times.shape[1] > 1
        return self.clock_of(self.ts if wanted else None)

    def clock_of(self, ts: Tensor | None) -> RowClock:
        """A clock whose output times are ``ts``; discontinuities of f stay where they are."""
        return RowClock(self.times, ts, self.y0, self.course.stops.jumps)

    def sparing(self) -> RowProblem:
        """The same problem for a method that spares memory: steps are kept only if the caller insisted."""
        recorder = self.course.recorder
        if recorder is None or recorder.limit is None:
            return self
        return attrs.evolve(self, course=attrs.evolve(self.course, recorder=None))

    def again(self, dynamics: RowDynamics, y0: Tensor, ts: Tensor) -> RowProblem:
        """The same problem once more, from these tensors: it counts for itself, keeps nothing and calls no hooks."""
        course = attrs.evolve(self.course, recorder=None, hooks=None)
        return attrs.evolve(self, dynamics=dynamics, y0=y0, ts=ts, course=course)


@attrs.frozen(eq=False)
class Start:
    """The dynamics of all rows, and the states and times at which they begin."""

    field: RowDynamics
    y0: Tensor
    times: tuple[RowTimes]
    ts: Tensor


def one_row(t: Any) -> Any:
    """The times ``[T]`` of one row among the caller's ``t``, for whoever checks them."""
    return t[0] if _by_row(t) else t


def pose_rows(problem: Problem, t: Any, stops: RowStops | None = None) -> RowProblem:
    """The problem of all rows.

    Args:
        problem: with everything but the times checked and packed, for the times :func:`one_row` of ``t``.
        t: the caller's times, ``[T]`` for all rows alike or ``[B, T]``.
        stops: times at which steps must end.

    Raises:
        InputError: the state has no rows, or the times do not fit.
    """
    y0 = problem.y0
    leaves = optree.tree_leaves(problem.layout.unpack(y0))
    counts = {leaf.shape[0] if leaf.ndim else None for leaf in leaves}
    if None in counts or len(counts) != 1:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in leaves)
        raise InputError(
            f'batch="rows" needs states whose parts all have the rows as their first axis, [B, ...]; got {shapes}'
        )
    count = len(y0)
    if _by_row(t):
        times, ts = _wide(t, count, y0)
    else:
        times, ts = np.tile(problem.times, (count, 1)), problem.ts.expand(count, len(problem.times))
    _check(times, endless=any(watch.event.ends for watch in problem.course.watches))
    low, high = np.minimum(times[:, 0], times[:, -1]), np.maximum(times[:, 0], times[:, -1])
    dynamics = RowDynamics(problem.field, y0, low, high, max(leaf.ndim for leaf in leaves))
    starts, column = dynamics.on(dynamics.everyone).times((RowTimes(times[:, 0]),))[0], dynamics.known.column
    given = problem.course
    course = RowCourse(
        stops=RowStops() if stops is None else stops,
        every_step=given.every_step,
        hooks=None if given.callbacks.silent else RowHooks(given.callbacks, times[:, 0], y0),
        recorder=None if given.recorder is None else Recorder(given.recorder.limit),
        watches=tuple(
            RowWatch(watch.event, problem.layout, watch.args, column, starts, dynamics.y0) for watch in given.watches
        ),
    )
    tolerance = RowTolerance.of(problem.tolerance)
    return RowProblem(dynamics, y0, problem.layout, times, ts, tolerance, problem.max_steps, _by_row(t), course)


def _by_row(t: Any) -> bool:
    if isinstance(t, Tensor | np.ndarray):
        return t.ndim == 2 and len(t) > 0
    return isinstance(t, list | tuple) and len(t) > 0 and isinstance(t[0], list | tuple | np.ndarray)


def _wide(t: Any, count: int, y0: Tensor) -> tuple[np.ndarray, Tensor]:
    try:
        times = on_host(t) if isinstance(t, Tensor) else np.array(t, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(
            "t has rows of different lengths, or no numbers in it; pad shorter rows by repeating their last time"
        ) from None
    if times.ndim != 2 or len(times) != count or times.shape[1] == 0:
        raise InputError(f"t has shape {times.shape}; expected [T], or [B, T] with B = {count}, the rows of y0")
    if isinstance(t, Tensor):
        return times, t
    return times, RowTimes(times).tensor(y0.reshape(-1))


def _check(times: np.ndarray, endless: bool) -> None:
    """Raise InputError if these are no times of rows; ``endless`` tells that the last ones of a row may be infinite."""
    with np.errstate(invalid="ignore"):  # between two infinite ones
        direction = np.sign(times[:, -1] - times[:, 0])[:, None]
        gaps = np.diff(times, axis=1)
    wrong = ((gaps * direction < 0) | ((direction == 0) & (gaps != 0))).any(1)
    if endless:
        wrong |= np.isnan(times).any(1) | np.isinf(times[:, 0])
    else:
        wrong |= ~np.isfinite(times).all(1)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        ends = "finite but for the last ones" if endless else "finite (if no event is terminal)"
        raise InputError(
            f"t[{row}] = {times[row].tolist()!s:.120}: the times of a row must be {ends}, and increase or decrease "
            "(they may repeat)"
        )
