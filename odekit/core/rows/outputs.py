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
from odekit.core.rows.selection import Selection
from odekit.core.times import RowTimes, Time, coefficient


@attrs.frozen(eq=False)
class Slots:
    """The outputs that lie in the steps of some rows, in rounds: a row has at most one in each.

    Attributes:
        k: ``[N, K]``, the number of the row's output.
        at_end: ``[N, K]``, where there is one, and it is the end of the step.
        inside: ``[N, K]``, where there is one, and it is not.
    """

    k: np.ndarray
    at_end: np.ndarray
    inside: np.ndarray

    def on(self, positions: np.ndarray) -> Slots:
        """The outputs of the rows at these positions."""
        return Slots(self.k[:, positions], self.at_end[:, positions], self.inside[:, positions])


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
    if clock.differentiable:
        return (clock.outputs(rows, slots.k) - step.t0) / (step.t1 - step.t0)
    tau = np.where(slots.inside, clock.times[rows.index, slots.k], t0)
    return RowTimes((tau - t0) / (t1 - t0)).tensor(step.y0)


class RowOutputs:
    """States as they come, in pieces of any number of rows, and where each belongs.

    Args:
        every_step: whether the end of every step is an output, in place of the times of the clock.

    Attributes:
        next: ``[B]``, the number of the next output of every row.
        times: ``[B, T]``, the host times of the outputs; NaN where there is none.
    """

    def __init__(self, clock: RowClock, y0: Tensor, every_step: bool = False) -> None:
        self.clock = clock
        self.every_step = every_step
        self.times = clock.times[:, :1] if every_step else clock.times
        self.device = y0.device
        count, self.length = self.times.shape
        self.direction = np.where(clock.times[:, -1] < clock.times[:, 0], -1.0, 1.0)
        self.next = np.ones(count, dtype=np.int64)
        self._pieces: list[Tensor] = []
        self._collected = 0
        self._place = np.full((count, self.length), -1, dtype=np.int64)
        self._end = np.full(count, -1, dtype=np.int64)
        self._add(y0, np.arange(count), np.zeros(count, dtype=np.int64))

    def _add(self, states: Tensor, rows: np.ndarray, k: np.ndarray) -> None:
        self._place[rows, k] = self._count(states)
        np.maximum.at(self.next, rows, k + 1)

    def _count(self, states: Tensor) -> np.ndarray:
        self._pieces.append(states)
        first, self._collected = self._collected, self._collected + len(states)
        return np.arange(first, self._collected)

    def rest(self, field: RowField, y0: Tensor) -> None:
        """Rows whose times all are the same."""
        if self.every_step:
            self.stop(field.rows, [y0, *at_rest(field, y0, self.clock)][-1])
            return
        for k, states in enumerate(at_rest(field, y0, self.clock), start=1):
            self._add(states, field.rows.index, np.full(len(field.rows), k))

    def take(
        self,
        field: RowField,
        solver: ODESolver,
        step: Step,
        t0: np.ndarray,
        t1: np.ndarray,
        taken: np.ndarray,
        until: np.ndarray | None = None,
    ) -> tuple[Step, Slots | None]:
        """Record what lies in the steps of the rows where ``taken`` is set.

        The step comes back, densified if that was needed, with the outputs that lie in it, None if there are none.
        Where rows are stopped inside their steps, ``until`` says when, and the step is densified already.
        """
        slots = self._slots(field.rows, t1, taken, t1 if until is None else until)
        if slots is None:
            return step, None
        step, found = states_in(field, solver, step, t0, t1, self.clock, slots, until is not None)
        for states, positions, k in found:
            self._add(states, field.rows.index[positions], k)
        return step, slots

    def _ends(self, rows: Selection, t1: np.ndarray, taken: np.ndarray) -> Slots:
        """The ends of these steps as outputs, for which room is made."""
        k = self.next[rows.index]
        if k.max() >= self.times.shape[1]:
            more = ((0, 0), (0, self.times.shape[1]))
            self.times = np.pad(self.times, more, constant_values=np.nan)
            self._place = np.pad(self._place, more, constant_values=-1)
        self.times[rows.index[taken], k[taken]] = t1[taken]
        return Slots(k[None], taken[None], np.zeros_like(taken)[None])

    def _slots(self, rows: Selection, t1: np.ndarray, taken: np.ndarray, until: np.ndarray) -> Slots | None:
        if self.every_step:
            return self._ends(rows, t1, taken)
        times, last = self.clock.times, self.length - 1
        direction, ahead = self.direction[rows.index], self.next[rows.index]
        masks, numbers = [], []
        while True:
            k = np.minimum(ahead, last)
            tau = times[rows.index, k]
            reached = taken & (ahead <= last) & (((until - tau) * direction >= 0) | same_time(tau, until))
            if not reached.any():
                break
            masks.append(reached)
            numbers.append(k)
            ahead = ahead + reached
        if not masks:
            return None
        mask, k = np.stack(masks), np.stack(numbers)
        ends = (k == last) if self.clock.differentiable else same_time(times[rows.index, k], t1)
        return Slots(k, mask & ends, mask & ~ends)

    def stop(self, rows: Selection, y: Tensor) -> None:
        """These rows end before their last output, in the states ``y``."""
        self._end[rows.index] = self._count(y)

    def collected(self, complete: np.ndarray) -> tuple[Tensor, Tensor, np.ndarray]:
        """``ys [B, T, ...]`` with NaN where a row did not get to, the last states, and which rows broke.

        ``complete`` are the rows that came to their end. One of them broke if its last state is not finite; what it
        gave from its first such output on then counts as not reached, so that what is left of it has right gradients.
        """
        states = torch.cat(self._pieces)
        if self.every_step:
            self.times, self._place = (x[:, : self.next.max(initial=1)] for x in (self.times, self._place))
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
            if self.every_step:
                self.times[broken] = np.where(reached, self.times[broken], np.nan)
        if (self._place < 0).any():
            self._place[self._place < 0] = self._collected
            states = torch.cat([states, torch.full_like(states[:1], math.nan)])
        ys = states.index_select(0, Selection(self._place.reshape(-1), self.device).tensor)
        y1 = states.index_select(0, Selection(end, self.device).tensor)
        return ys.reshape(*self._place.shape, *states.shape[1:]), y1, broken


def same_time(t: np.ndarray, t1: np.ndarray) -> np.ndarray:
    """Where two times differ by rounding alone."""
    return np.asarray(np.abs(t - t1) <= 4 * np.spacing(np.maximum(np.abs(t), np.abs(t1))))


def _finite(states: Tensor) -> np.ndarray:
    finite = torch.isfinite(states.detach()).reshape(len(states), math.prod(states.shape[1:])).all(1)
    return np.asarray(finite.cpu().numpy())
