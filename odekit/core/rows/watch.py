"""Events of a solve by rows: their functions on all rows, and the log of what happened in each."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

from odekit.core.events import SECOND, Event, Watch
from odekit.core.first_only import first_only
from odekit.core.rows.selection import Selection
from odekit.core.state import Layout
from odekit.errors import GradientError, InputError


@attrs.frozen(eq=False)
class RowWatch:
    """An event as the loop over rows sees it: on packed states of some of the rows.

    Its functions are always called on all rows, so that they may hold tensors with an entry for every row. Rows that
    nobody asks about are shown at their start.

    Attributes:
        event: what the caller gave.
        layout: how the state of all rows is packed.
        args: of the solve.
        column: the functions are told the times of the B rows as ``[B, *column]``.
        t, y: the start of all rows, ``[B, ...]``.
    """

    event: Event
    layout: Layout
    args: tuple[Any, ...]
    column: tuple[int, ...]
    t: Tensor
    y: Tensor

    def __call__(self, t: Tensor, y: Tensor, rows: Selection) -> Tensor:
        """g of these rows, ``[K]``, at times ``t [K, ...]`` and states ``y [K, ...]``."""
        value = self.event.fn(*self._told(t, y, rows), *self.args)
        count = len(self.y)
        fits = isinstance(value, Tensor) and value.shape in ((count,), (count, 1)) and value.is_floating_point()
        if not fits:
            what = f"a {value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise InputError(
                f'an event function returned {what:.80}; with batch="rows" a real tensor [{count}] is expected, one '
                "number a row, which crosses zero where the event happens"
            )
        return value.reshape(count).index_select(0, rows.tensor)

    def jumped(self, t: Tensor, y: Tensor, rows: Selection) -> Tensor:
        """The packed states of these rows after the event."""
        assert self.event.jump is not None
        after = self.layout.pack(self.event.jump(*self._told(t, y, rows), *self.args), "what the jump returned")
        if after.dtype != y.dtype or after.device != y.device:
            raise InputError(
                f"the jump returned {after.dtype} on {after.device}; y is {y.dtype} on {y.device}, and so must it be"
            )
        return after.index_select(0, rows.tensor)

    def _told(self, t: Tensor, y: Tensor, rows: Selection) -> tuple[Tensor, Any]:
        t = self.t.reshape(-1).index_copy(0, rows.tensor, t.reshape(-1).to(self.t))
        return t.reshape(-1, *self.column), self.layout.unpack(self.y.index_copy(0, rows.tensor, y))


@attrs.frozen(eq=False)
class WatchOfOne(Watch):
    """An event of one row, for a solve of that row alone."""

    whole: RowWatch
    rows: Selection

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        return self.whole(t, y, self.rows).reshape(())

    def jumped(self, t: Tensor, y: Tensor) -> Tensor:
        return self.whole.jumped(t, y, self.rows)


def rates_of(watch: RowWatch, t: Tensor, y: Tensor, slope: Tensor, rows: Selection) -> Tensor:
    """dg/dt of these rows, ``[K]``, along paths through ``(t, y)`` with these slopes, detached."""
    with torch.enable_grad():
        t, y = t.detach().requires_grad_(), y.detach().requires_grad_()
        value = watch(t, y, rows)
        if not value.requires_grad:
            return torch.zeros_like(value)
        by_t, by_y = torch.autograd.grad(value.sum(), [t, y], allow_unused=True)
    rate = torch.zeros_like(value.detach())
    if by_t is not None:
        rate = rate + by_t.reshape(-1)
    return rate if by_y is None else rate + (by_y.conj() * slope).real.reshape(len(y), -1).sum(1)


def located_rows(watch: RowWatch, t: Tensor, y: Tensor, slope: Tensor, rows: Selection) -> tuple[Tensor, Tensor]:
    """Times ``[K]`` and states of crossings, with the gradients that the implicit function theorem gives them.

    Raises:
        GradientError: g is flat there, so that a time has no derivative.
    """
    told = t.to(y.real.dtype).reshape(-1, *(1,) * (y.ndim - 1))
    with torch.enable_grad():
        value = watch(told, y, rows)
    if not (torch.is_grad_enabled() and value.requires_grad):
        return t, y
    rate = rates_of(watch, told, y, slope, rows)
    flat = (rate == 0).cpu().numpy()
    if flat.any():
        raise GradientError(
            f"an event function is flat where it crosses zero in row {rows.index[flat][0]}, so that the time of the "
            "event has no derivative"
        )
    value = first_only(value, SECOND)
    shift = (value.detach() - value) / rate
    return t + shift.to(t), y + slope * shift.reshape(told.shape)
