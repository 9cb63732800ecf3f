"""The answer at any time of a solve by rows: which of the kept steps of each row a time lies in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import attrs
import numpy as np
import torch
from torch import Tensor

from odekit.core.dense import DenseOutput, without_gradient
from odekit.core.protocols import ODESolver, Step
from odekit.core.rows.field import RowDynamics, RowField
from odekit.core.rows.selection import Selection, pick
from odekit.core.state import Layout
from odekit.core.times import RowTimes, on_host
from odekit.errors import InputError


@attrs.define(eq=False)
class KeptRows:
    """The steps of one iteration, with what they need to be densified.

    Attributes:
        t0, t1: ``[K]``, host times of their ends.
        accepted: ``[K]``, which of them count.
        dense: whether ``step`` is ready to be interpolated.
    """

    field: RowField
    solver: ODESolver
    step: Step
    t0: np.ndarray
    t1: np.ndarray
    accepted: np.ndarray
    dense: bool

    def densified(self) -> Step:
        """The step, ready to be interpolated; made so when first asked for."""
        if not self.dense:
            self.step, self.dense = self.solver.densify(self.field, self.step), True
        return self.step


@attrs.frozen(eq=False)
class Asked:
    """Rows and a time for each of them, ``[N]``; ``ts`` are the times as a tensor if they require a gradient."""

    rows: np.ndarray
    times: np.ndarray
    ts: Tensor | None

    def on(self, which: np.ndarray) -> Asked:
        """Those at these positions."""
        if self.ts is None:
            return Asked(self.rows[which], self.times[which], None)
        return Asked(self.rows[which], self.times[which], pick(self.ts, Selection(which, self.ts.device)))


class RowPieces(Protocol):
    """What is known of the rows between their ends."""

    def of(self, asked: Asked, derivative: bool) -> tuple[Tensor, np.ndarray]:
        """The states (or dy/dt) ``[N, ...]`` at times that were solved for, and which of ``asked`` they belong to.

        Rows that took no step are left out.
        """
        ...

    @property
    def detached(self) -> bool:
        """Whether steps were kept, and gradients do not flow through them."""
        ...


class Together:
    """Pieces of a solve in which all rows stepped at once.

    Args:
        kept: one entry for every iteration that counted, in order.
    """

    def __init__(self, kept: Sequence[KeptRows]) -> None:
        self.kept = kept
        self._sorted: tuple[np.ndarray, ...] | None = None

    @property
    def detached(self) -> bool:
        return bool(self.kept) and not self.kept[-1].step.y1.requires_grad

    def of(self, asked: Asked, derivative: bool) -> tuple[Tensor, np.ndarray]:
        iterations, positions = self._found(asked)
        parts, order = [], []
        for k in np.unique(iterations[iterations >= 0]):
            which = np.flatnonzero(iterations == k)
            parts.append(_within(self.kept[k], positions[which], asked.on(which), derivative))
            order.append(which)
        if not parts:
            return torch.empty(0), np.zeros(0, dtype=np.int64)
        return torch.cat(parts), np.concatenate(order)

    def _found(self, asked: Asked) -> tuple[np.ndarray, np.ndarray]:
        """For every time the iteration that it lies in, -1 if its row took no step, and the row's position there."""
        rows, starts, iterations, positions, backwards = self._steps()
        found, place = np.full(len(asked.rows), -1), np.zeros(len(asked.rows), dtype=np.int64)
        for row in np.unique(asked.rows):
            first, last = np.searchsorted(rows, [row, row + 1])
            if first == last:
                continue
            which = np.flatnonzero(asked.rows == row)
            sign = -1.0 if backwards[first] else 1.0
            ahead = np.searchsorted(starts[first:last] * sign, asked.times[which] * sign, side="left")
            step = first + np.maximum(ahead - 1, 0)
            found[which], place[which] = iterations[step], positions[step]
        return found, place

    def _steps(self) -> tuple[np.ndarray, ...]:
        """All steps that count, by row and then in order: row, start, iteration, position, whether they go backwards.

        A time lies in the last step that begins before it, so that the earlier of two steps which meet has the say.
        """
        if self._sorted is None:
            masks = [kept.accepted for kept in self.kept]
            rows = _joined([kept.field.rows.index[mask] for kept, mask in zip(self.kept, masks, strict=True)])
            order = np.argsort(rows, kind="stable")
            starts = _joined([kept.t0[mask] for kept, mask in zip(self.kept, masks, strict=True)])
            back = _joined([(kept.t1 < kept.t0)[mask] for kept, mask in zip(self.kept, masks, strict=True)])
            numbers = _joined([np.full(int(mask.sum()), k) for k, mask in enumerate(masks)])
            positions = _joined([np.flatnonzero(mask) for mask in masks])
            self._sorted = tuple(x[order] for x in (rows, starts, numbers, positions, back))
        return self._sorted


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _within(kept: KeptRows, positions: np.ndarray, asked: Asked, derivative: bool) -> Tensor:
    """The states of the rows at these positions of one iteration, in rounds: a row has at most one time in each."""
    step, count = kept.densified(), len(kept.t0)
    order = np.argsort(positions, kind="stable")
    rounds = np.empty_like(positions)
    rounds[order] = np.arange(len(positions)) - np.searchsorted(positions[order], positions[order])
    flat, size = rounds * count + positions, (int(rounds.max()) + 1) * count
    place = Selection(flat, step.y0.device)
    theta = step.y0.real.new_zeros(size).index_copy(0, place.tensor, _share(kept, step, positions, asked))
    theta = theta.reshape(-1, count, *(1,) * (step.y0.ndim - 1))
    found = (kept.solver.derivative if derivative else kept.solver.interpolate)(step, theta)
    found = found.expand(size // count, *step.y0.shape).reshape(size, *step.y0.shape[1:])
    return found.index_select(0, place.tensor)


def _share(kept: KeptRows, step: Step, positions: np.ndarray, asked: Asked) -> Tensor:
    """Where in their steps the times lie, as a tensor that moves with them and with the ends of the steps."""
    like = step.y0.reshape(-1)
    if isinstance(step.t0, Tensor):
        chosen = Selection(positions, like.device).tensor
        t0, dt = (x.reshape(-1).index_select(0, chosen) for x in (step.t0, step.t1 - step.t0))
        at = torch.tensor(asked.times.tolist(), dtype=t0.dtype, device=t0.device) if asked.ts is None else asked.ts
        return ((at.to(t0) - t0) / dt).to(like.real.dtype)
    t0, dt = RowTimes(kept.t0[positions]), RowTimes((kept.t1 - kept.t0)[positions])
    theta = ((RowTimes(asked.times) - t0) / dt).tensor(like)
    return theta if asked.ts is None else theta + (asked.ts - asked.ts.detach()).to(theta) / dt.tensor(like)


class Apart:
    """Pieces of rows that were solved one after the other: what was kept of each, None if it took no step."""

    def __init__(self, rows: Sequence[DenseOutput | None]) -> None:
        self.rows = rows

    @property
    def detached(self) -> bool:
        ends = [row.steps[-1].step.y1 for row in self.rows if row is not None]
        return bool(ends) and not any(end.requires_grad for end in ends)

    def of(self, asked: Asked, derivative: bool) -> tuple[Tensor, np.ndarray]:
        parts, order = [], []
        for row in np.unique(asked.rows):
            pieces = self.rows[row]
            if pieces is None:
                continue
            which = np.flatnonzero(asked.rows == row)
            some = asked.on(which)
            parts.append(pieces.packed(some.times.tolist() if some.ts is None else some.ts, derivative)[:, 0])
            order.append(which)
        if not parts:
            return torch.empty(0), np.zeros(0, dtype=np.int64)
        return torch.cat(parts), np.concatenate(order)


@attrs.frozen(eq=False)
class RowDense:
    """The piecewise interpolants of all rows.

    Attributes:
        pieces: what was kept of them.
        t0, t1: ``[B]``, the times between which each row was solved.
        y0: the packed states at ``t0``.
        dynamics: asked for dy/dt of rows that took no step.
        layout: how states are packed.
        detached: whether gradients do not flow through it although the answer has some.
    """

    pieces: RowPieces
    t0: np.ndarray
    t1: np.ndarray
    y0: Tensor
    dynamics: RowDynamics
    layout: Layout
    detached: bool

    def __call__(self, t: Any, derivative: bool = False) -> Any:
        """The states (or dy/dt) of all rows at ``t``.

        Args:
            t: a number or ``[K]``, the same for all rows, which gives ``[B, ...]`` or ``[K, B, ...]``, with NaN for
                rows that were not solved there; or ``[B, K]``, a row's own times, which gives ``[B, K, ...]``.

        Raises:
            InputError: a time of a row's own lies outside what the row was solved for, or one for all outside of that
                for all rows.
        """
        times = on_host(t) if isinstance(t, Tensor) else np.asarray(t, dtype=np.float64)
        count, own = len(self.t0), times.ndim == 2
        if times.ndim > 2 or (own and len(times) != count):
            raise InputError(f"t has shape {times.shape}; expected a number, [K], or [B, K] with B = {count}")
        every = times if own else np.broadcast_to(times.reshape(1, -1), (count, times.size))
        covered = self._covered(every)
        self._check(every, covered, own)
        rows, k = np.nonzero(covered)
        ts = None
        if isinstance(t, Tensor) and t.requires_grad:
            numbers = Selection(rows * every.shape[1] + k if own else k, t.device)
            ts = t.reshape(-1).index_select(0, numbers.tensor).to(self.y0.device)
        states = self._states(Asked(rows, every[rows, k], ts), derivative)
        packed = states.new_full((covered.size, *self.y0.shape[1:]), torch.nan)
        packed = packed.index_copy(0, Selection(rows * every.shape[1] + k, states.device).tensor, states)
        packed = packed.reshape(*covered.shape, *self.y0.shape[1:])
        if not own:
            packed = packed.transpose(0, 1).reshape(*times.shape, *self.y0.shape)
        return self.layout.unpack(without_gradient(packed) if self.detached else packed)

    def _states(self, asked: Asked, derivative: bool) -> Tensor:
        found, which = self.pieces.of(asked, derivative)
        still = np.setdiff1d(np.arange(len(asked.rows)), which)
        parts, order = ([found], [which]) if len(which) else ([], [])
        if len(still):
            rows = Selection(asked.rows[still], self.y0.device)
            state = pick(self.y0.detach() if self.detached else self.y0, rows)
            parts.append(self._slopes(rows, state) if derivative else state)
            order.append(still)
        if not parts:
            return self.y0.new_empty((0, *self.y0.shape[1:]))
        back = np.argsort(np.concatenate(order))
        return torch.cat(parts).index_select(0, Selection(back, self.y0.device).tensor)

    def _slopes(self, rows: Selection, state: Tensor) -> Tensor:
        """dy/dt at the starts of rows that took no step."""
        slopes = self.dynamics(RowTimes(self.t0), self.y0.detach() if self.detached else self.y0)
        return pick(slopes, rows)

    def _covered(self, times: np.ndarray) -> np.ndarray:
        low, high = np.minimum(self.t0, self.t1)[:, None], np.maximum(self.t0, self.t1)[:, None]
        slack = 4 * np.spacing(np.maximum(np.abs(low), np.abs(high)))
        return np.asarray((low - slack <= times) & (times <= high + slack))

    def _check(self, times: np.ndarray, covered: np.ndarray, own: bool) -> None:
        if own and not covered.all():
            row, k = (int(x[0]) for x in np.nonzero(~covered))
            raise InputError(
                f"t[{row}, {k}] = {times[row, k]:g} lies outside what row {row} was solved for, from {self.t0[row]:g} "
                f"to {self.t1[row]:g}"
            )
        if not own and len(covered) and not covered.any(0).all():
            t = times[0, int(np.flatnonzero(~covered.any(0))[0])]
            low, high = np.minimum(self.t0, self.t1).min(), np.maximum(self.t0, self.t1).max()
            raise InputError(f"t = {t:g} lies outside what any row was solved for, within {low:g} and {high:g}")
