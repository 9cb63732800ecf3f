"""The user's dynamics as the numerics call them: on packed states, counted, checked, inside the span."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odekit.core.jacobian import Jacobian, jacobian, rows_are_independent
from odekit.core.state import Layout
from odekit.core.times import Time
from odekit.errors import DynamicsError


class Field:
    """``f(t, y, *args)`` on packed tensors.

    Attributes:
        nfe: calls of the user's f so far.
        jacobians: Jacobians made of it so far.
    """

    def __init__(
        self, f: Callable[..., Any], args: tuple[Any, ...], layout: Layout, like: Tensor, span: tuple[float, float]
    ) -> None:
        self.f = f
        self.args = args
        self.layout = layout
        self.dtype = like.dtype
        self.time_dtype = self.time_dtype_of(like)
        self.device = like.device
        self.nfe = 0
        self.jacobians = 0
        self._bounds = _inward(min(span), max(span), self.time_dtype)

    @staticmethod
    def time_dtype_of(y: Tensor) -> torch.dtype:
        """The real dtype in which f is told the time."""
        return y.dtype.to_real()

    def fork(self, args: tuple[Any, ...] | None = None) -> Field:
        """The same field with counters of its own, and with other ``args`` if given."""
        other = object.__new__(Field)
        other.__dict__.update(self.__dict__)
        other.nfe = other.jacobians = 0
        if args is not None:
            other.args = args
        return other

    def __call__(self, t: Time, y: Tensor) -> Tensor:
        if not isinstance(t, Tensor) or t.dtype != self.time_dtype:
            t = self.times((t,))[0]
        self.nfe += 1
        try:
            dy = self.f(t, self.layout.unpack(y), *self.args)
        except Exception as error:
            _explain(error, t, y)
            raise
        if dy is None:
            raise DynamicsError("f returned None; expected dy/dt (is a `return` missing?)")
        dy = self.layout.pack(dy, "what f returned")
        if dy.dtype != self.dtype:
            raise DynamicsError(
                f"f returned {dy.dtype}, y is {self.dtype}; return dy/dt in the dtype of y "
                "(float64 constants inside f and autocast regions are the usual causes)"
            )
        if dy.device != self.device:
            raise DynamicsError(f"f returned a tensor on {dy.device}, y is on {self.device}; move f's parameters or y0")
        return dy

    def linearised(self, t: Time, y: Tensor, rows: bool) -> Jacobian:
        """∂f/∂y there, detached."""
        self.jacobians += 1
        return jacobian(functools.partial(self, self._detached(t)), y, rows)

    def rows_are_independent(self, t: Time, y: Tensor) -> bool:
        """Whether the rows of a batched ``y`` do not interact, judged at this point."""
        return rows_are_independent(functools.partial(self, self._detached(t)), y)

    def _detached(self, t: Time) -> Tensor:
        return self.times((t,))[0].detach()

    def times(self, values: Sequence[Time]) -> Sequence[Tensor]:
        """The times as 0-d tensors in the state's real dtype, none of them rounded to outside the span."""
        floats = [value for value in values if not isinstance(value, Tensor)]
        if len(floats) < len(values):
            return [self._rounded(value) for value in values]
        low, high = self._bounds
        inside = [min(max(value, low), high) for value in floats]
        if self.device.type == "cpu":
            return torch.tensor(inside, dtype=self.time_dtype).unbind()
        return [torch.full((), value, dtype=self.time_dtype, device=self.device) for value in inside]

    def _rounded(self, value: Time) -> Tensor:
        t = torch.as_tensor(value, dtype=self.time_dtype, device=self.device)
        return t + (t.clamp(*self._bounds) - t).detach()


_NUMPY_FLOATS: dict[torch.dtype, Any] = {torch.float32: np.float32, torch.float16: np.float16}


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


def _explain(error: Exception, t: Tensor, y: Tensor) -> None:
    """Note on an exception of the user's own where odekit called it; the innermost of nested solves has the say."""
    if not getattr(error, "__notes__", None):
        error.add_note(
            f"raised by f(t, y) with t = {t.detach()!s} and y of shape {tuple(y.shape)}, {y.dtype} on {y.device}"
        )
