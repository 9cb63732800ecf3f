"""The user's dynamics as the numerics call them: on packed states, counted, checked, inside the span."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from odekit.core import lanes
from odekit.core.autocast import Autocast
from odekit.core.expansion import Expanded, expand
from odekit.core.graph_field import Inlined
from odekit.core.graph_layout import GraphLayout
from odekit.core.jacobian import Linearised, rows_are_independent
from odekit.core.linear import Linear
from odekit.core.sections import Section
from odekit.core.state import Layout, TensorLayout, TreeLayout
from odekit.core.times import Time, host
from odekit.errors import DynamicsError


@attrs.define
class Count:
    """Calls of the user's f, and Jacobians made of it, so far."""

    nfe: int = 0
    jacobians: int = 0


class Field:
    """``f(t, y, *args)`` on packed tensors.

    Attributes:
        autocast: the mixed precision in which f runs; what it returns is cast back to the dtype of y.
        count: what was asked of f so far, by this field and by those confined from it.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        args: tuple[Any, ...],
        layout: Layout,
        like: Tensor,
        span: tuple[float, float],
        autocast: Autocast | None = None,
    ) -> None:
        self.f = f
        self.args = args
        self.layout = layout
        self.dtype = like.dtype
        self.time_dtype = self.time_dtype_of(like)
        self.device = like.device
        self.autocast = autocast
        self.count = Count()
        self._bounds = _inward(min(span), max(span), self.time_dtype)

    @property
    def nfe(self) -> int:
        """Calls of the user's f so far."""
        return self.count.nfe

    @property
    def jacobians(self) -> int:
        """Jacobians made of it so far."""
        return self.count.jacobians

    @staticmethod
    def time_dtype_of(y: Tensor) -> torch.dtype:
        """The real dtype in which f is told the time."""
        return y.dtype.to_real()

    def fork(self, args: tuple[Any, ...] | None = None) -> Field:
        """The same field with counters of its own, and with other ``args`` if given."""
        other = self._copy()
        other.count = Count()
        if args is not None:
            other.args = args
        return other

    def with_rows(self, count: int, args: tuple[Any, ...]) -> Field:
        """A fork for states with another number of rows, and with these ``args``."""
        other = self.fork(args)
        other.layout = self.layout.with_rows(count)
        return other

    def everywhere(self) -> Field:
        """The same field for a caller that keeps to the span by itself, or to one for every row."""
        other = self._copy()
        other._bounds = (-math.inf, math.inf)
        return other

    def confined(self, section: Section) -> Field:
        """The same field, counted together with this one, between two discontinuities of f: never asked beyond them.

        At a discontinuity itself f is asked at the nearest time inside, so that it answers with its limit from there.
        """
        other = self._copy()
        low, high = self._bounds
        if math.isfinite(section.low):
            low = max(low, _beside(section.low, math.inf, self.time_dtype))
        if math.isfinite(section.high):
            high = min(high, _beside(section.high, -math.inf, self.time_dtype))
        other._bounds = (low, max(low, high))
        return other

    def _copy(self) -> Field:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def __call__(self, t: Time, y: Tensor) -> Tensor:
        if not isinstance(t, Tensor) or t.dtype != self.time_dtype or (t.ndim == 0 and lanes.differentiated(t)):
            t = self.times((t,))[0]  # times by row are kept within their own spans before they come here
        self.count.nfe += 1
        try:
            if self.autocast is None:
                dy = self.f(t, self.layout.unpack(y), *self.args)
            else:
                with self.autocast.entered():
                    dy = self.f(t, self.layout.unpack(y), *self.args)
        except Exception as error:
            _explain(error, t, y)
            raise
        if dy is None:
            raise DynamicsError("f returned None; expected dy/dt (is a `return` missing?)")
        dy = self.layout.pack(dy, "what f returned")
        if self.autocast is not None and dy.dtype == self.autocast.dtype:
            dy = dy.to(self.dtype)
        if dy.dtype != self.dtype:
            raise DynamicsError(
                f"f returned {dy.dtype}, y is {self.dtype}; return dy/dt in the dtype of y "
                "(float64 constants inside f are the usual cause)"
            )
        if dy.device != self.device:
            raise DynamicsError(f"f returned a tensor on {dy.device}, y is on {self.device}; move f's parameters or y0")
        return dy

    def inlined(self) -> Inlined | None:
        """What becomes part of a compiled graph; None under autocast, or with a nesting that graphs do not have."""
        layout = GraphLayout.of(self.layout) if isinstance(self.layout, TreeLayout) else None
        if self.autocast is not None or (layout is None and not isinstance(self.layout, TensorLayout)):
            return None
        return Inlined(self.f, self.f, self.args, layout, None, self._bounds, self._counted)

    def _counted(self, calls: int, jacobians: int = 0) -> None:
        self.count.nfe += calls
        self.count.jacobians += jacobians

    def linearised(self, t: Time, y: Tensor, linear: Linear) -> Linearised:
        """∂f/∂y there, detached."""
        self.count.jacobians += 1
        return linear.linearised(functools.partial(self, self._detached(t)), y)

    def expanded(self, t: Time, y: Tensor, rows: bool) -> Expanded:
        """f to first order there: value, ∂f/∂t and ∂f/∂y, with their own derivatives."""
        self.count.jacobians += 1
        return expand(self, self.times((t,))[0], y, rows)

    def inside(self, t: Time) -> bool:
        """Whether this time is within the span, or the section that the field is confined to."""
        return self._bounds[0] <= host(t) <= self._bounds[1]

    def rows_are_independent(self, t: Time, y: Tensor) -> bool:
        """Whether the rows of a batched ``y`` do not interact, judged at this point."""
        return rows_are_independent(functools.partial(self, self._detached(t)), y)

    def _detached(self, t: Time) -> Tensor:
        return self.times((t,))[0].detach()

    def times(self, values: Sequence[Time]) -> Sequence[Tensor]:
        """The times as 0-d tensors in the state's real dtype, none of them rounded to outside the span."""
        floats = [value for value in values if isinstance(value, int | float)]
        if len(floats) < len(values):
            return [self._rounded(value) for value in values]
        low, high = self._bounds
        inside = [min(max(value, low), high) for value in floats]
        if self.device.type == "cpu" and self.time_dtype in _NUMPY_FLOATS:  # half the time of torch.tensor
            return torch.from_numpy(np.array(inside, dtype=_NUMPY_FLOATS[self.time_dtype])).unbind()
        if self.device.type == "cpu":
            return torch.tensor(inside, dtype=self.time_dtype).unbind()
        return [torch.full((), value, dtype=self.time_dtype, device=self.device) for value in inside]

    def _rounded(self, value: Time) -> Tensor:
        t = torch.as_tensor(value, dtype=self.time_dtype, device=self.device)
        return t + (t.clamp(*self._bounds) - t).detach()


_NUMPY_FLOATS: dict[torch.dtype, Any] = {
    torch.float64: np.float64, torch.float32: np.float32, torch.float16: np.float16
}  # fmt: skip


def _inward(low: float, high: float, dtype: torch.dtype) -> tuple[float, float]:
    """The largest interval in ``[low, high]`` whose ends ``dtype`` can hold; the interval itself if there is none."""
    if dtype not in _NUMPY_FLOATS:
        return low, high
    narrow = _NUMPY_FLOATS[dtype]
    lowest, highest = narrow(low), narrow(high)
    if float(lowest) < low:
        lowest = np.nextafter(lowest, narrow(np.inf))
    if float(highest) > high:
        highest = np.nextafter(highest, narrow(-np.inf))
    return (float(lowest), float(highest)) if lowest <= highest else (low, high)


def _beside(t: float, towards: float, dtype: torch.dtype) -> float:
    """The next time that ``dtype`` can hold, on one side of ``t``."""
    if dtype not in _NUMPY_FLOATS:
        return math.nextafter(t, towards)
    narrow = _NUMPY_FLOATS[dtype]
    beside = narrow(t)
    while (float(beside) - t) * math.copysign(1.0, towards) <= 0:
        beside = np.nextafter(beside, narrow(towards))
    return float(beside)


def _explain(error: Exception, t: Tensor, y: Tensor) -> None:
    """Note on an exception of the user's own where odekit called it; the innermost of nested solves has the say."""
    if not getattr(error, "__notes__", None):
        error.add_note(
            f"raised by f(t, y) with t = {t.detach()!s} and y of shape {tuple(y.shape)}, {y.dtype} on {y.device}"
        )
