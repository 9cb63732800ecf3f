"""Looking for events in the steps of many rows at once."""

from __future__ import annotations

from collections.abc import Sequence

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
    """Crossings inside steps, detached; those of a row in the order in which they happened.

    Attributes:
        row, event: ``[N]``, of which row and which event.
        t: ``[N]``, when.
        y, slope: the states there and dy/dt, ``[N, ...]``.
    """

    row: np.ndarray
    event: np.ndarray
    t: np.ndarray
    y: Tensor
    slope: Tensor

    def only(self, chosen: np.ndarray) -> RowHits:
        """Those where the mask is set."""
        picked = Selection(np.flatnonzero(chosen), self.y.device)
        return RowHits(
            self.row[chosen], self.event[chosen], self.t[chosen], pick(self.y, picked), pick(self.slope, picked)
        )

    @property
    def rank(self) -> np.ndarray:
        """``[N]``, how many crossings the row had before."""
        order = np.argsort(self.row, kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order)) - np.searchsorted(self.row[order], self.row[order])
        return rank


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
        fired: ``[B]``, the event in whose surface each row starts, because it has just happened there; -1 for none.

    Attributes:
        found: the crossings so far.
        ended: ``[B]``, the event that stopped each row, -1 if none did.
        last: ``[B]``, the ends of the steps in which that happened.
    """

    def __init__(self, watches: Sequence[RowWatch], fired: np.ndarray) -> None:
        self.watches = watches
        self.fired = fired
        self.begun = np.zeros(len(fired), dtype=bool)
        self.signs = np.zeros((len(watches), len(fired)))
        self.stops = np.array([watch.event.stops for watch in watches], dtype=bool)
        self.ended = np.full(len(fired), -1)
        self.last = np.full(len(fired), np.nan)
        self._found: list[RowHits] = []

    @property
    def found(self) -> RowHits | None:
        if not self._found:
            return None
        pieces = self._found
        return RowHits(
            np.concatenate([piece.row for piece in pieces]),
            np.concatenate([piece.event for piece in pieces]),
            np.concatenate([piece.t for piece in pieces]),
            torch.cat([piece.y for piece in pieces]),
            torch.cat([piece.slope for piece in pieces]),
        )

    def inspect(
        self, field: RowField, solver: ODESolver, step: Step, t0: np.ndarray, t1: np.ndarray, ok: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, Tensor]:
        """Find the crossings in densified steps, none of a row after the first one that stops it.

        Only the steps where ``ok`` is set are looked at, and of them those whose ends are finite.

        Returns:
            Which rows are stopped, the times at which the rows now are, and the states there, as far as they went on.
        """
        steps, rows = _Steps(field, solver, step, t0, t1), field.rows
        live = ok & torch.isfinite(step.y1).reshape(len(ok), -1).all(1).cpu().numpy()
        self._begin(steps, live & ~self.begun[rows.index])
        pieces = [piece for k in range(len(self.watches)) for piece in self._crossings(k, steps, live)]
        stopped, t, y = np.zeros(len(ok), dtype=bool), t1, step.y1
        if not pieces:
            return stopped, t, y
        position, event, theta = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
        order = np.lexsort((np.arange(len(theta)), theta, position))
        position, event, theta = position[order], event[order], theta[order]
        number = np.arange(len(theta))
        first = np.full(len(ok), len(theta))
        np.minimum.at(first, position[self.stops[event]], number[self.stops[event]])
        keep = number <= first[position]
        number = (number - np.searchsorted(position, position))[keep]
        position, event, theta = position[keep], event[keep], theta[keep]
        t = t.copy()
        for rank in range(int(number.max()) + 1):  # of a row at most one crossing at a time
            chosen = number == rank
            hit = self._hits(steps, position[chosen], event[chosen], theta[chosen])
            self._found.append(hit)
            stops = self.stops[hit.event]
            at = position[chosen][stops]
            stopped[at], t[at] = True, hit.t[stops]
            self.ended[hit.row[stops]], self.last[hit.row[stops]] = hit.event[stops], t1[at]
            y = y.index_copy(0, Selection(at, y.device).tensor, hit.only(stops).y)
        return stopped, t, y

    def _hits(self, steps: _Steps, position: np.ndarray, event: np.ndarray, theta: np.ndarray) -> RowHits:
        everywhere = np.full(len(steps.t0), 0.5)
        everywhere[position] = theta
        chosen = Selection(position, steps.step.y1.device)
        y, slope = pick((steps.states(everywhere), steps.slopes(everywhere)), chosen)
        return RowHits(steps.field.rows.index[position], event, steps.times(everywhere)[position], y, slope)

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
        eps = 1e3 * torch.finfo(slope.dtype).eps
        for k, watch in enumerate(self.watches):
            value = self._value(k, steps, zero)
            rate = rates_of(watch, *steps.told(zero), slope, rows).cpu().double().numpy() * span
            resolution = eps * np.maximum(1.0, np.abs(steps.t0 / span))
            on = (self.fired[rows.index] == k) | (value == 0) | (np.abs(value) <= resolution * np.abs(rate))
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
            lost = np.flatnonzero(np.isnan(value) & live)
            if len(lost):
                at = steps.t0[lost[0]] + end * (steps.t1 - steps.t0)[lost[0]]
                raise InputError(f"an event function returned NaN at t = {at:g} in row {rows[lost[0]]}")
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
            return self._value(k, steps, everywhere)[position]

        t0, t1, side = steps.t0[position], steps.t1[position], sign[position]
        low, high = np.full(len(position), begin), np.full(len(position), end)
        g_low, g_high = g(low), value[position]
        on_surface = g_low * side <= 0  # or at a sample that is a root
        g_low = np.where(on_surface, side * np.where(g_high == 0, 1.0, np.abs(g_high)), g_low)
        grain = np.spacing(np.maximum(np.abs(t0), np.abs(t1)))
        xtol = np.maximum(4 * grain / np.abs(t1 - t0), 4 * np.spacing(1.0))
        return bracketed_roots(g, low, high, g_low, g_high, xtol)
