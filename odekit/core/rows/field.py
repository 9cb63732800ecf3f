"""The user's f with a time for every row, and on some of the rows only."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, cast

import attrs
import numpy as np
import optree
import torch
from torch import Tensor

from odekit.core.expansion import Expanded, expand
from odekit.core.field import Count, Field
from odekit.core.graph_field import Inlined
from odekit.core.jacobian import Linearised
from odekit.core.linear import Linear
from odekit.core.rows.selection import Selection, pick
from odekit.core.times import RowTimes, Time
from odekit.errors import DynamicsError

_NARROW: dict[torch.dtype, Any] = {torch.float32: np.float32, torch.float16: np.float16}


@attrs.define(eq=False)
class _Known:
    """What has been found out about f, shared by everything that was made from one field.

    Attributes:
        column: the shape in which f is told the times of ``[B]`` rows is ``[B, *column]``.
        t, y, dy: where that was found out, and what f gave there.
        subsets: whether f can be called on some of the rows; None as long as nobody needed to know.
        indexed: whether the tensors in ``args`` that have the rows as their first axis then go by row.
    """

    column: tuple[int, ...]
    t: Tensor
    y: Tensor
    dy: Tensor
    subsets: bool | None = None
    indexed: bool = True


class RowDynamics:
    """The dynamics of all rows. Steps get those of the rows that are on their way, by :meth:`on`.

    f is told the times as ``[B, 1, ..., 1]``, which broadcasts against the widest part of the state, or as ``[B]`` if
    it was written for that: whichever makes a row's dy/dt that of its own time and state alone. When the first rows are
    done, f is tried on a part of the rows. If that gives what it gave on all of them, f is from then on called on the
    rows that are left; tensors in ``args`` whose first axis are the rows go by row. Otherwise (f holds a tensor with an
    entry for every row, say) it is called on all rows, those that are done resting at their start.

    Args:
        field: f as it is called in other solves; what it counts is not used.
        y0: the packed state at the start.
        low, high: ``[B]``, the times beyond which f is not asked, by row.

    Attributes:
        count: calls of the user's f so far, on however many rows at once, and Jacobians made of it.
    """

    def __init__(self, field: Field, y0: Tensor, low: np.ndarray, high: np.ndarray, ndim: int) -> None:
        self.base = field.everywhere()
        self.y0 = y0.detach()
        self.low, self.high = _inward(low, high, field.time_dtype)
        self.everyone = Selection(np.arange(len(y0)), y0.device)
        self.count = Count()
        self.known = self._probed(ndim)

    @property
    def nfe(self) -> int:
        return self.count.nfe

    @property
    def jacobians(self) -> int:
        return self.count.jacobians

    @property
    def f(self) -> Any:
        return self.base.f

    @property
    def args(self) -> tuple[Any, ...]:
        return self.base.args

    def fork(self, args: tuple[Any, ...] | None = None) -> RowDynamics:
        """The same dynamics with counters of their own, and with other ``args`` if given."""
        other = object.__new__(RowDynamics)
        other.__dict__.update(self.__dict__)
        other.base = self.base.fork(args)
        other.count = Count()
        return other

    def __call__(self, t: Time, y: Tensor) -> Tensor:
        """dy/dt of all rows."""
        return self.on(self.everyone)(t, y)

    def on(self, rows: Selection) -> RowField:
        """The vector field of these rows. A row may occur more than once if ``divisible``."""
        return RowField(self, rows)

    @property
    def divisible(self) -> bool:
        """Whether f can be called on some of the rows; found out when first asked."""
        known = self.known
        if known.subsets is None:
            some = Selection(self.everyone.index[::-2][: max(1, len(self.everyone) // 2)], self.y0.device)
            known.subsets = any(self._same_on(some, indexed) for indexed in (True, False))
        return known.subsets

    def _same_on(self, some: Selection, indexed: bool) -> bool:
        """Whether f gives on some of the rows what it gave on all of them."""
        known = self.known
        known.indexed = indexed
        with torch.no_grad():
            t, y, expected = (x.index_select(0, some.tensor) for x in (known.t, known.y, known.dy))
            try:
                dy = self._call(self.part(some), t, y)
            except Exception:  # whatever f says about a batch that it was not made for
                return False
            return _close(dy, expected)

    def part(self, rows: Selection) -> Field:
        """The field of some rows, for f as it is."""
        return self.base.with_rows(len(rows), self.args_of(rows))

    def args_of(self, rows: Selection) -> tuple[Any, ...]:
        """The ``args`` of these rows."""
        count = len(self.everyone)

        def of(leaf: Any) -> Any:
            by_row = isinstance(leaf, Tensor) and leaf.ndim > 0 and leaf.shape[0] == count
            return leaf.index_select(0, rows.tensor.to(leaf.device)) if by_row else leaf

        if not self.known.indexed or rows is self.everyone:
            return self.args
        return cast(tuple[Any, ...], optree.tree_map(of, cast(Any, self.args), none_is_leaf=True))

    def _call(self, field: Field, t: Tensor, y: Tensor, column: tuple[int, ...] | None = None) -> Tensor:
        self.count.nfe += 1
        shape = self.known.column if column is None else column
        return field(t.reshape(len(y), *shape), y)

    def _probed(self, ndim: int) -> _Known:
        """Find the shape of time that f takes, at times that differ between the rows and lie inside their spans."""
        count = len(self.y0)
        spread = (np.arange(count) + 1.0) / (count + 1.0)
        low = np.where(np.isfinite(self.low), self.low, self.high - 1.0)  # a span may be infinite
        high = np.where(np.isfinite(self.high), self.high, self.low + 1.0)
        inside = np.clip(low + spread * (high - low), low, high)
        t = RowTimes(inside).tensor(self.y0).reshape(count)
        columns = [(1,) * (ndim - 1), ()] if ndim > 1 else [()]
        first: Exception | None = None
        for column in columns:
            try:
                with torch.no_grad():
                    dy = self._call(self.base, t, self.y0, column)
                    alike = all(self._alone(row, t, dy, column) for row in sorted({0, count - 1} if count else ()))
            except Exception as error:
                first = first or error
                continue
            if alike:
                return _Known(column, t, self.y0, dy)
        if first is not None and len(columns) == 1:
            raise first
        told = " nor ".join(str([count, *column]) for column in columns)
        raise DynamicsError(
            'batch="rows" needs an f whose dy/dt of a row follows from the time and state of that row alone, but with '
            f"t of shape {told} this f does not: make it broadcast t against y (as in `t * y`), let no rows interact "
            '(as batch normalisation lets them), draw no random numbers in it; or solve with batch="shared"'
        ) from first

    def _alone(self, row: int, t: Tensor, dy: Tensor, column: tuple[int, ...]) -> bool:
        """Whether dy/dt of a row stays when the others get its time and different states."""
        others = self.y0.roll(1, 0) * (1 + 2**-5) + 2**-5
        others[row] = self.y0[row]
        again = self._call(self.base, t[row].expand(len(t)).contiguous(), others, column)
        return _close(again[row], dy[row])


class RowField:
    """The dynamics of some of the rows as a step sees them.

    Attributes:
        rows: which.
        bounds: ``[K]`` each, the times beyond which f is not asked, by row.
        told: the shape in which f is told the times of these rows.
    """

    def __init__(
        self, dynamics: RowDynamics, rows: Selection, bounds: tuple[np.ndarray, np.ndarray] | None = None
    ) -> None:
        self.dynamics = dynamics
        self.rows = rows
        self.bounds = (dynamics.low[rows.index], dynamics.high[rows.index]) if bounds is None else bounds
        self.whole = rows is dynamics.everyone
        self.field = dynamics.base if self.whole or not dynamics.divisible else dynamics.part(rows)
        self.told = (len(rows), *dynamics.known.column)

    @property
    def nfe(self) -> int:
        return self.dynamics.count.nfe

    @property
    def jacobians(self) -> int:
        return self.dynamics.count.jacobians

    def on(self, positions: Selection) -> RowField:
        """The field of the rows at these positions."""
        return RowField(self.dynamics, self.rows.among(positions), pick(self.bounds, positions))

    def within(self, bounds: tuple[np.ndarray, np.ndarray]) -> RowField:
        """The same field with these bounds."""
        return RowField(self.dynamics, self.rows, bounds)

    def confined(self, low: np.ndarray, high: np.ndarray) -> RowField:
        """The same field between discontinuities of f, ``[K]`` on either side, infinite where there is none.

        At a discontinuity itself f is asked at the nearest time inside, so that it answers with its limit from there.
        """
        index, dtype = self.rows.index, self.field.time_dtype
        lowest = np.maximum(self.dynamics.low[index], _beside(low, math.inf, dtype))
        highest = np.minimum(self.dynamics.high[index], _beside(high, -math.inf, dtype))
        return self.within((lowest, np.maximum(lowest, highest)))

    def __call__(self, t: Time, y: Tensor) -> Tensor:
        if not isinstance(t, Tensor) or t.dtype != self.field.time_dtype or t.requires_grad:
            t = self.times((t,))[0]
        dynamics = self.dynamics
        if self.whole or self.field is not dynamics.base:
            dynamics.count.nfe += 1
            return self.field(t if t.shape == self.told else t.reshape(self.told), y)
        index, known = self.rows.tensor, dynamics.known
        t, y = known.t.index_copy(0, index, t.reshape(len(index))), known.y.index_copy(0, index, y)
        return dynamics._call(self.field, t, y).index_select(0, index)

    def times(self, values: Sequence[Time]) -> Sequence[Tensor]:
        """The times as ``[B, 1, ..., 1]``, none of them rounded to outside a row's span; host times go over at once."""
        y, dtype = self.dynamics.y0, self.field.time_dtype
        wide = (len(self.rows), *(1,) * (y.ndim - 1))
        low, high = self.bounds
        if any(isinstance(value, Tensor) for value in values):
            bounds = [RowTimes(bound).tensor(y) for bound in self.bounds]
            return [self._rounded(value, wide, bounds[0], bounds[1]) for value in values]
        hosts = [value.values if isinstance(value, RowTimes) else np.full(len(low), value) for value in values]
        inside = np.minimum(np.maximum(np.array(hosts), low), high)
        narrow = inside.astype(_NARROW.get(dtype, np.float64), copy=False).reshape(len(values), *wide)
        return torch.from_numpy(narrow).to(y.device, dtype).unbind()

    def _rounded(self, value: Time, wide: tuple[int, ...], low: Tensor, high: Tensor) -> Tensor:
        if not isinstance(value, Tensor):
            return self.times((value,))[0]
        t = value.to(low.device, low.dtype).expand(wide)
        return t + (torch.minimum(torch.maximum(t, low), high) - t).detach()

    def inlined(self) -> Inlined | None:
        """What becomes part of a compiled graph; None where f has to be called on rows that take no part."""
        if not (self.whole or self.field is not self.dynamics.base):
            return None
        found = self.field.inlined()
        if found is None:
            return None
        return attrs.evolve(found, column=self.dynamics.known.column, bounds=self.bounds, count=self._counted)

    def _counted(self, calls: int, jacobians: int = 0) -> None:
        self.dynamics.count.nfe += calls
        self.dynamics.count.jacobians += jacobians

    def linearised(self, t: Time, y: Tensor, linear: Linear) -> Linearised:
        """∂f/∂y there, detached: a block a row, or products, for rows do not interact."""
        self.dynamics.count.jacobians += 1
        return linear.linearised(functools.partial(self, self.times((t,))[0].detach()), y)

    def expanded(self, t: Time, y: Tensor, rows: bool) -> Expanded:
        """f to first order there: value, ∂f/∂t and ∂f/∂y, with their own derivatives; a block a row."""
        self.dynamics.count.jacobians += 1
        return expand(self, self.times((t,))[0], y, True)

    def inside(self, t: Time) -> bool:
        """Never beyond a step: rows come to their ends at different times."""
        return False

    def rows_are_independent(self, t: Time, y: Tensor) -> bool:
        return True


def _close(found: Tensor, expected: Tensor) -> bool:
    """Whether two values of dy/dt agree but for rounding."""
    if found.numel() == 0:
        return True
    loose = torch.finfo(expected.dtype).eps ** 0.6
    size = float(torch.nan_to_num(expected.abs(), posinf=0.0, neginf=0.0).max())
    return torch.allclose(found, expected, rtol=loose, atol=loose * size, equal_nan=True)


def _beside(t: np.ndarray, towards: float, dtype: torch.dtype) -> np.ndarray:
    """The next times that ``dtype`` can hold, on one side of ``t``; infinite times stay."""
    narrow = _NARROW.get(dtype, np.float64)
    beside = t.astype(narrow)
    for _ in range(2):
        short = (beside.astype(np.float64) - np.where(np.isfinite(t), t, 0.0)) * math.copysign(1.0, towards) <= 0
        beside = np.where(short & np.isfinite(t), np.nextafter(beside, narrow(towards)), beside)
    return np.where(np.isfinite(t), beside.astype(np.float64), t)


def _inward(low: np.ndarray, high: np.ndarray, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
    """For every row the largest interval in ``[low, high]`` whose ends ``dtype`` can hold, itself if there is none."""
    if dtype not in _NARROW:
        return low, high
    narrow = _NARROW[dtype]
    lowest, highest = low.astype(narrow), high.astype(narrow)
    lowest = np.where(lowest < low, np.nextafter(lowest, narrow(math.inf)), lowest).astype(np.float64)
    highest = np.where(highest > high, np.nextafter(highest, narrow(-math.inf)), highest).astype(np.float64)
    some = lowest <= highest
    return np.where(some, lowest, low), np.where(some, highest, high)
