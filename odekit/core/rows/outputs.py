"""Collecting the states at every row's own output times."""

from __future__ import annotations

import math

import attrs
import numpy as np
import torch
from torch import Tensor

from odekit.core.protocols import ODESolver, Step
from odekit.core.rows.clock import RowClock
from odekit.core.rows.field import RowField
from odekit.core.rows.monitor import Met
from odekit.core.rows.selection import Selection
from odekit.core.times import RowTimes, Time, coefficient, on_host


@attrs.frozen(eq=False)
class Slots:
    """The outputs that lie in the steps of some rows, in rounds: a row has at most one in each.

    Attributes:
        k: ``[N, K]``, the number of the row's output.
        tau: ``[N, K]``, its host time.
        index: ``[N, K]``, which of the caller's output times it is; -1 for the end of a step, or for an event.
        at_end: ``[N, K]``, where there is one, and it is the end of the step.
        inside: ``[N, K]``, where there is one, and it is not.
    """

    k: np.ndarray
    tau: np.ndarray
    index: np.ndarray
    at_end: np.ndarray
    inside: np.ndarray

    def on(self, positions: np.ndarray) -> Slots:
        """The outputs of the rows at these positions."""
        return Slots(*(x[:, positions] for x in (self.k, self.tau, self.index, self.at_end, self.inside)))

    def seen_by(self, clock: RowClock) -> Slots:
        """The same with what counts as an end for this clock.

        Where times are differentiated, of the caller's times only the last one counts as such: anywhere else the
        derivative with respect to that output time comes out of the dense output.
        """
        if not clock.differentiable:
            return self
        some, last = self.at_end | self.inside, self.index == clock.times.shape[1] - 1
        ends = some & np.where(self.index >= 0, last, self.at_end)
        return attrs.evolve(self, at_end=ends, inside=some & ~ends)


def states_in(
    field: RowField,
    solver: ODESolver,
    step: Step,
    t0: np.ndarray,
    t1: np.ndarray,
    clock: RowClock,
    slots: Slots,
    dense: bool = False,
) -> tuple[Step, list[tuple[Tensor, np.ndarray, np.ndarray]]]:
    """The step, densified if that was needed, and the states at the outputs in it.

    The states come in at most two pieces, each with the positions of the rows they belong to, and the output's numbers.
    """
    rows, found, device = field.rows, [], step.y1.device
    if slots.at_end.any():
        which, position = np.nonzero(slots.at_end)
        states = step.y1
        if len(position) != len(rows) or (position != np.arange(len(rows))).any():
            states = states.index_select(0, Selection(position, device).tensor)
        found.append((states, position, slots.k[which, position]))
    if slots.inside.any():
        step = step if dense else solver.densify(field, step)
        which, position = np.nonzero(slots.inside)
        states = solver.interpolate(step, _theta(clock, rows, step, t0, t1, slots))
        flat = states.reshape(-1, *states.shape[2:])
        flat = flat.index_select(0, Selection(which * len(rows) + position, device).tensor)
        found.append((flat, position, slots.k[which, position]))
    return step, found


def at_rest(field: RowField, y0: Tensor, clock: RowClock) -> list[Tensor]:
    """The states at the later outputs of rows that stay: ``y0``, which still moves by f as those times move apart."""
    rows, length = field.rows, clock.times.shape[1]
    if clock.ts is None:
        return [y0] * (length - 1)
    ts = clock.ts.index_select(0, rows.tensor).reshape(len(rows), length, *(1,) * (y0.ndim - 1))
    slope = field(ts[:, 0], y0)
    return [y0 + coefficient(ts[:, k] - ts[:, 0], y0) * slope for k in range(1, length)]


def _theta(clock: RowClock, rows: Selection, step: Step, t0: np.ndarray, t1: np.ndarray, slots: Slots) -> Time:
    tau = np.where(slots.inside, slots.tau, t0)
    if clock.differentiable:
        at = clock.outputs(rows, tau, np.where(slots.inside, slots.index, -1))
        return (at - step.t0) / (step.t1 - step.t0)
    return RowTimes((tau - t0) / (t1 - t0)).tensor(step.y0)


class RowOutputs:
    """States as they come, in pieces of any number of rows, and where each belongs.

    Args:
        every_step: whether the end of every step is an output, in place of the times of the clock.
        planned: whether the outputs are the times of the clock, and nothing else.

    Attributes:
        next: ``[B]``, the number of the next output of every row.
        times: ``[B, S]``, the host times of the outputs; NaN where there is none, unless they are all ``planned``.
        index: ``[B, S]``, which of the times of the clock they are, -1 for none.
        event: ``[B, S]``, which event happened there, -1 for none.
    """

    def __init__(self, clock: RowClock, y0: Tensor, every_step: bool = False, planned: bool = True) -> None:
        self.clock = clock
        self.every_step = every_step
        self.planned = planned and not every_step
        self.times = clock.times if self.planned else clock.times[:, :1]
        self.device = y0.device
        count, self.length = clock.times.shape
        self.index = np.zeros_like(self.times, dtype=np.int64) + np.arange(self.times.shape[1])
        self.event = np.full_like(self.index, -1)
        self.direction = np.where(clock.times[:, -1] < clock.times[:, 0], -1.0, 1.0)
        self.next = np.ones(count, dtype=np.int64)
        self._ahead = self.next.copy()
        self._planned_times = np.column_stack([clock.times, self.direction * math.inf])
        self._pieces: list[Tensor] = []
        self._collected = 0
        self._place = np.full(self.times.shape, -1, dtype=np.int64)
        self._end = np.full(count, -1, dtype=np.int64)
        self._place[:, 0] = self._count(y0)

    def _count(self, states: Tensor) -> np.ndarray:
        self._pieces.append(states)
        first, self._collected = self._collected, self._collected + len(states)
        return np.arange(first, self._collected)

    def rest(self, field: RowField, y0: Tensor) -> None:
        """Rows whose times all are the same."""
        rows = field.rows.index
        if self.every_step:
            self.stop(field.rows, [y0, *at_rest(field, y0, self.clock)][-1])
            return
        self._make_room(self.length)
        for k, states in enumerate(at_rest(field, y0, self.clock), start=1):
            self._place[rows, k] = self._count(states)
        if not self.planned:
            self.times[rows, : self.length] = self.clock.times[rows]
            self.index[rows, : self.length] = np.arange(self.length)
        self.next[rows] = self.length

    def _make_room(self, length: int) -> None:
        """Let there be outputs up to this many."""
        missing = length - self.times.shape[1]
        if missing > 0:
            more = ((0, 0), (0, max(missing, self.times.shape[1])))
            self.times = np.pad(self.times, more, constant_values=np.nan)
            self.index, self.event, self._place = (
                np.pad(x, more, constant_values=-1) for x in (self.index, self.event, self._place)
            )

    def take(
        self,
        field: RowField,
        solver: ODESolver,
        step: Step,
        t0: np.ndarray,
        t1: np.ndarray,
        taken: np.ndarray,
        met: Met | None = None,
    ) -> tuple[Step, Slots | None]:
        """Record what lies in the steps of the rows where ``taken`` is set.

        The step comes back, densified if that was needed, with the outputs that lie in it, None if there are none.
        ``met`` are the events that were found in it, for which it has been densified.
        """
        slots = self._slots(field.rows.index, t1, taken, met)
        if slots is None:
            return step, None
        step, found = states_in(field, solver, step, t0, t1, self.clock, slots, met is not None)
        for states, positions, k in found:
            self._place[field.rows.index[positions], k] = self._count(states)
        return step, slots

    def _slots(self, rows: np.ndarray, t1: np.ndarray, taken: np.ndarray, met: Met | None) -> Slots | None:
        """The outputs in these steps, by row in the order of their times."""
        rounds = [] if self.every_step else self._planned(rows, taken, t1 if met is None else met.t)
        if met is not None:
            rounds += _hits(met, len(rows))
        if self.every_step:
            rounds.append(_Round(t1, taken if met is None else taken & ~met.stopped))
        if not any(some.mask.any() for some in rounds):
            return None
        mask, tau, index, event = (
            np.stack([getattr(some, name) for some in rounds]) for name in ("mask", "tau", "index", "event")
        )
        if met is not None and len(met.hits.row):
            order = np.argsort(np.where(mask, tau * self.direction[rows], np.inf), axis=0, kind="stable")
            mask, tau, index, event = (np.take_along_axis(x, order, 0) for x in (mask, tau, index, event))
        k = self.next[rows] + np.cumsum(mask, axis=0) - mask
        self.next[rows] += mask.sum(0)
        if not self.planned:
            self._make_room(int(self.next.max()))
            which, position = np.nonzero(mask)
            at = rows[position], k[which, position]
            self.times[at], self.index[at], self.event[at] = tau[mask], index[mask], event[mask]
        ends = same_time(tau, t1)
        return Slots(k, tau, index, mask & ends, mask & ~ends).seen_by(self.clock)

    def _planned(self, rows: np.ndarray, taken: np.ndarray, until: np.ndarray) -> list[_Round]:
        """The times of the clock that these steps have come to."""
        rounds: list[_Round] = []
        direction, rounding = self.direction[rows], 4 * np.spacing(np.abs(until))
        while True:
            index = self._ahead[rows]
            tau = self._planned_times[rows, index]  # infinite behind the last one
            reached = taken & ((until - tau) * direction >= -rounding)
            if not reached.any():
                return rounds
            rounds.append(_Round(tau, reached, index))
            self._ahead[rows] = index + reached

    def told(self, rows: Selection, reached: np.ndarray, states: Tensor | None, y: Tensor) -> None:
        """Record the planned outputs of these rows, where somebody else has found them.

        ``reached [K]`` says how many there are after the first one, ``states [T - 1, K, ...]`` what they are. None if
        there is but one, the end, with the states ``y``.
        """
        for k in range(int(reached.max(initial=0))):
            place = self._count(y if states is None else states[k])
            some = reached > k
            self._place[rows.index[some], k + 1] = place[some]
        self.next[rows.index] = self._ahead[rows.index] = 1 + reached

    def stop(self, rows: Selection, y: Tensor) -> None:
        """These rows end before their last output, in the states ``y``."""
        self._end[rows.index] = self._count(y)

    def collected(self, complete: np.ndarray) -> tuple[Tensor, Tensor, np.ndarray]:
        """``ys [B, T, ...]`` with NaN where a row did not get to, the last states, and which rows broke.

        ``complete`` are the rows that came to their end. One of them broke if its last state is not finite; what it
        gave from its first such output on then counts as not reached, so that what is left of it has right gradients.
        """
        states = torch.cat(self._pieces)
        if not self.planned:
            self.times, self.index, self.event, self._place = (
                x[:, : self.next.max(initial=1)] for x in (self.times, self.index, self.event, self._place)
            )
        last = self._place[np.arange(len(self._place)), self.next - 1]
        end = np.where(complete & (self._end < 0), last, self._end)
        broken = complete & ~_finite(states.index_select(0, Selection(end, self.device).tensor))
        if broken.any():
            finite = _finite(states)[self._place[broken]] & (self._place[broken] >= 0)
            finite[:, 0] = True
            reached = np.cumprod(finite, axis=1).astype(bool)
            self._place[broken] = np.where(reached, self._place[broken], -1)
            self.next[broken] = reached.sum(1)
            end[broken] = self._place[broken, self.next[broken] - 1]
            if not self.planned:
                self.times[broken] = np.where(reached, self.times[broken], np.nan)
                self.index[broken], self.event[broken] = (
                    np.where(reached, x[broken], -1) for x in (self.index, self.event)
                )
        if (self._place < 0).any():
            self._place[self._place < 0] = self._collected
            states = torch.cat([states, torch.full_like(states[:1], math.nan)])
        ys = states.index_select(0, Selection(self._place.reshape(-1), self.device).tensor)
        y1 = states.index_select(0, Selection(end, self.device).tensor)
        return ys.reshape(*self._place.shape, *states.shape[1:]), y1, broken


@attrs.frozen(eq=False)
class _Round:
    """At most one output for each of ``[K]`` rows: its time, whether there is one, which it is, and which event."""

    tau: np.ndarray
    mask: np.ndarray
    index: np.ndarray = attrs.field(default=attrs.Factory(lambda self: np.full(len(self.tau), -1), takes_self=True))
    event: np.ndarray = attrs.field(default=attrs.Factory(lambda self: np.full(len(self.tau), -1), takes_self=True))


def _hits(met: Met, count: int) -> list[_Round]:
    """The events among the steps of ``[K]`` rows."""
    rounds, rank = [], met.hits.rank
    for k in range(int(rank.max(initial=-1)) + 1):
        chosen = np.flatnonzero(rank == k)
        place, tau, event = met.hits.row[chosen], np.zeros(count), np.full(count, -1)
        tau[place], event[place] = met.hits.t[chosen], met.hits.event[chosen]
        rounds.append(_Round(tau, event >= 0, event=event))
    return rounds


def same_time(t: np.ndarray, t1: np.ndarray) -> np.ndarray:
    """Where two times differ by rounding alone."""
    with np.errstate(invalid="ignore"):  # an infinite time is none that is reached
        return np.asarray(np.abs(t - t1) <= 4 * np.spacing(np.maximum(np.abs(t), np.abs(t1))))


def _finite(states: Tensor) -> np.ndarray:
    finite = torch.isfinite(states.detach()).reshape(len(states), math.prod(states.shape[1:])).all(1)
    return np.asarray(on_host(finite) > 0)
