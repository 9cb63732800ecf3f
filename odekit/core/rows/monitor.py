"""Looking for events in the steps of many rows at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
import numpy as np
import torch
from torch import Tensor

from odekit.core.events import SAMPLES
from odekit.core.protocols import ODESolver, Step
from odekit.core.roots import bracketed_roots
from odekit.core.rows.field import RowField
from odekit.core.rows.selection import Selection, pick
from odekit.core.rows.watch import RowWatch, rates_of
from odekit.core.times import RowTimes
from odekit.errors import InputError


@attrs.frozen(eq=False)
class RowHits:
    """Crossings inside steps; those of a row in the order in which they happened.

    Attributes:
        row, event: ``[N]``, of which row, and which event.
        t: ``[N]``, when.
        slope: dy/dt there, ``[N, ...]``, detached.
    """

    row: np.ndarray
    event: np.ndarray
    t: np.ndarray
    slope: Tensor

    @property
    def rank(self) -> np.ndarray:
        """``[N]``, how many crossings the row had before."""
        order = np.argsort(self.row, kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order)) - np.searchsorted(self.row[order], self.row[order])
        return rank

    @classmethod
    def joined(cls, parts: Sequence[RowHits], like: Tensor) -> RowHits:
        """Those of all parts, by row; none leave an empty slope beside states ``like``."""
        nothing = RowHits(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), like[:0].detach())
        parts = [nothing, *parts]
        row, event, t = (np.concatenate([getattr(part, name) for part in parts]) for name in ("row", "event", "t"))
        order = Selection(np.argsort(row, kind="stable"), like.device)
        return RowHits(*pick((row, event, t, torch.cat([part.slope for part in parts])), order))


@attrs.frozen(eq=False)
class Met:
    """What events did to the steps of one iteration.

    Attributes:
        stopped: ``[K]``, which rows go no further.
        t, y: ``[K]`` and ``[K, ...]``, where the rows now are, as far as their steps count; detached where stopped.
        hits: the crossings; their ``row`` is the position in the iteration.
    """

    stopped: np.ndarray
    t: np.ndarray
    y: Tensor
    hits: RowHits

    def on(self, positions: np.ndarray) -> Met:
        """The same for the rows at these positions, which are in order and have all the hits among them."""
        chosen = Selection(positions, self.y.device)
        hits = attrs.evolve(self.hits, row=np.searchsorted(positions, self.hits.row))
        stopped, t, y = pick((self.stopped, self.t, self.y), chosen)
        return Met(stopped, t, y, hits)


@attrs.frozen(eq=False)
class _Steps:
    """Densified steps of some rows, to be looked at anywhere in them."""

    field: RowField
    solver: ODESolver
    step: Step
    t0: np.ndarray
    t1: np.ndarray

    def times(self, theta: np.ndarray) -> np.ndarray:
        return np.asarray(np.where(theta == 1, self.t1, self.t0 + theta * (self.t1 - self.t0)))

    def states(self, theta: np.ndarray) -> Tensor:
        if (theta == 1).all():
            return self.step.y1
        if (theta == 0).all():
            return self.step.y0
        y = self.solver.interpolate(self.step, RowTimes(theta).tensor(self.step.y0))
        ends = np.flatnonzero(theta == 1)
        if not len(ends):
            return y
        ended = Selection(ends, y.device)
        return y.index_copy(0, ended.tensor, pick(self.step.y1, ended))

    def slopes(self, theta: np.ndarray) -> Tensor:
        return self.solver.derivative(self.step, RowTimes(theta).tensor(self.step.y0)).detach()

    def told(self, theta: np.ndarray) -> tuple[Tensor, Tensor]:
        """Times and states as an event function gets them."""
        return self.field.times((RowTimes(self.times(theta)),))[0], self.states(theta)


class RowMonitor:
    """Looks for crossings in one iteration of steps after the other.

    Args:
        watches: the events.
        count: how many rows there are.
        fired: ``[B]``, the event in whose surface each row starts, because it has just happened there; -1 for none.

    Attributes:
        found: the crossings so far, iteration after iteration.
    """

    def __init__(self, watches: Sequence[RowWatch], count: int, fired: np.ndarray | None) -> None:
        self.watches = watches
        self.fired = np.full(count, -1) if fired is None else fired
        self.begun = np.zeros(count, dtype=bool)
        self.signs = np.zeros((len(watches), count))
        self.stops = np.array([watch.event.stops for watch in watches], dtype=bool)
        self.found: list[RowHits] = []

    @torch.no_grad()
    def inspect(
        self, field: RowField, solver: ODESolver, step: Step, t0: np.ndarray, t1: np.ndarray, ok: np.ndarray
    ) -> Met:
        """Find the crossings in densified steps, none of a row after the first one that stops it.

        Only the steps where ``ok`` is set are looked at, and of them those whose ends are finite.
        """
        steps, rows = _Steps(field, solver, step, t0, t1), field.rows
        live = ok & torch.isfinite(step.y1).reshape(len(ok), -1).all(1).cpu().numpy()
        self._begin(steps, live & ~self.begun[rows.index])
        stopped, t, y = np.zeros(len(ok), dtype=bool), t1.copy(), step.y1
        hits = []
        for position, event, theta in self._rounds(steps, live):
            everywhere = np.full(len(t0), 0.5)
            everywhere[position] = theta
            chosen, at = Selection(position, y.device), steps.times(everywhere)
            hits.append(RowHits(position, event, at[position], pick(steps.slopes(everywhere), chosen)))
            stops = position[self.stops[event]]
            if len(stops):
                stopped[stops], t[stops] = True, at[stops]
                some = Selection(stops, y.device)
                y = y.index_copy(0, some.tensor, pick(steps.states(everywhere), some))
        found = RowHits.joined(hits, y)
        if len(found.row):
            self.found.append(attrs.evolve(found, row=rows.index[found.row]))
        return Met(stopped, t, y, found)

    def _rounds(self, steps: _Steps, live: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Positions, events and thetas of the crossings, in rounds: of a row at most one in each."""
        pieces = [piece for k in range(len(self.watches)) for piece in self._crossings(k, steps, live)]
        if not pieces:
            return
        position, event, theta = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
        order = np.lexsort((np.arange(len(theta)), theta, position))
        position, event, theta = position[order], event[order], theta[order]
        number = np.arange(len(theta))
        first = np.full(len(live), len(theta))
        np.minimum.at(first, position[self.stops[event]], number[self.stops[event]])
        keep = number <= first[position]
        rank = (number - np.searchsorted(position, position))[keep]
        position, event, theta = position[keep], event[keep], theta[keep]
        for k in range(int(rank.max()) + 1):
            yield position[rank == k], event[rank == k], theta[rank == k]

    def _value(self, k: int, steps: _Steps, theta: np.ndarray) -> np.ndarray:
        value = self.watches[k](*steps.told(theta), steps.field.rows)
        return np.asarray(value.detach().cpu().double().numpy())

    def _begin(self, steps: _Steps, fresh: np.ndarray) -> None:
        """The sides on which rows start; for a start on the surface, the side to which a row leaves."""
        if not fresh.any():
            return
        rows, span = steps.field.rows, steps.t1 - steps.t0
        zero = np.zeros(len(span))
        slope = steps.slopes(zero)
        eps = torch.finfo(slope.dtype).eps
        for k, watch in enumerate(self.watches):
            if watch.event.at_start:
                self.signs[k, rows.index[fresh]] = 1.0
                continue
            value = self._value(k, steps, zero)
            _must_be_numbers(value, fresh, zero, steps)
            rate = rates_of(watch, *steps.told(zero), slope, rows).cpu().double().numpy() * span
            resolution = 1e3 * eps * np.maximum(1.0, np.abs(steps.t0 / span))
            fired = self.fired[rows.index] == k  # on the surface, unless the jump has left it
            known = np.where(fired, np.maximum(resolution, eps**0.25), resolution)
            on = (value == 0) | (np.abs(value) <= known * np.abs(rate)) | (fired & (rate == 0))
            if (on & fresh).any():
                soon = self._value(k, steps, np.full(len(span), 1e-3))
                value = np.where(on, np.where(rate != 0, rate, soon), value)
            self.signs[k, rows.index[fresh]] = np.nan_to_num(np.sign(value[fresh]))
        self.begun[rows.index[fresh]] = True

    def _crossings(self, k: int, steps: _Steps, live: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Positions of rows, the number of the event, and where in their steps the rows cross."""
        rows, wanted = steps.field.rows.index, self.watches[k].event.direction
        sign, begin, found = self.signs[k, rows], 0.0, []
        for end in SAMPLES:
            value = self._value(k, steps, np.full(len(rows), end))
            _must_be_numbers(value, live, np.full(len(rows), end), steps)
            now = np.where(value == 0, -sign, np.sign(value))
            crossed = live & (sign != 0) & (now != sign) & ((wanted == 0) | (now == wanted))
            if crossed.any():
                theta = self._roots(k, steps, np.flatnonzero(crossed), begin, end, value, sign)
                position = np.flatnonzero(crossed)
                found.append((position, np.full(len(position), k), theta))
            sign, begin = np.where(live & (now != 0), now, sign), end
        self.signs[k, rows] = sign
        return found

    def _roots(
        self,
        k: int,
        steps: _Steps,
        position: np.ndarray,
        begin: float,
        end: float,
        value: np.ndarray,
        sign: np.ndarray,
    ) -> np.ndarray:
        """Where between two samples the rows at these positions cross zero."""

        def g(theta: np.ndarray) -> np.ndarray:
            everywhere = np.full(len(value), end)
            everywhere[position] = theta
            found = self._value(k, steps, everywhere)
            _must_be_numbers(found, live, everywhere, steps)
            return found[position]

        live = np.isin(np.arange(len(value)), position)
        t0, t1, side = steps.t0[position], steps.t1[position], sign[position]
        low, high = np.full(len(position), begin), np.full(len(position), end)
        g_low, g_high = g(low), value[position]
        on_surface = g_low * side <= 0  # or at a sample that is a root
        g_low = np.where(on_surface, side * np.where(g_high == 0, 1.0, np.abs(g_high)), g_low)
        grain = np.spacing(np.maximum(np.abs(t0), np.abs(t1)))
        xtol = np.maximum(4 * grain / np.abs(t1 - t0), 4 * np.spacing(1.0))
        return bracketed_roots(g, low, high, g_low, g_high, xtol)


def _must_be_numbers(value: np.ndarray, live: np.ndarray, theta: np.ndarray, steps: _Steps) -> None:
    """Raise an InputError where an event function has no sign in one of these rows."""
    lost = np.flatnonzero(np.isnan(value) & live)
    if len(lost):
        b = lost[0]
        at = steps.t0[b] + theta[b] * (steps.t1 - steps.t0)[b]
        raise InputError(f"an event function returned NaN at t = {at:g} in row {steps.field.rows.index[b]}")
