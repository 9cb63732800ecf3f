"""Times inside a solve: host floats, one float a row, or differentiable tensors that follow the caller's times."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from odekit.core import lanes
from odekit.core.stretch import shares


@attrs.frozen(eq=False)
class RowTimes:
    """One host time for each row of a batched state, in float64; arithmetic is by row.

    Attributes:
        values: ``[B]``, or ``[K, B]`` for K times of each row.
    """

    values: np.ndarray

    def tensor(self, y: Tensor) -> Tensor:
        """The times as ``[B, 1, ..., 1]``, which broadcasts against the rows of ``y``, in its real dtype."""
        dtype, shape = y.dtype.to_real(), self.values.shape + (1,) * (y.ndim - 1)
        narrow = self.values.astype(_NUMPY.get(dtype, np.float64)).reshape(shape)
        return torch.from_numpy(narrow).to(y.device, dtype)

    def __add__(self, other: Any) -> Any:
        return RowTimes(self.values + _bare(other))

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return RowTimes(self.values - _bare(other))

    def __rsub__(self, other: Any) -> Any:
        return -self + other

    def __mul__(self, other: Any) -> Any:
        return RowTimes(self.values * _bare(other))

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        return RowTimes(self.values / _bare(other))

    def __rtruediv__(self, other: Any) -> Any:
        return RowTimes(other / self.values)

    def __pow__(self, exponent: int) -> RowTimes:
        return RowTimes(self.values**exponent)

    def __neg__(self) -> RowTimes:
        return RowTimes(-self.values)

    def __len__(self) -> int:
        return len(self.values)


def _bare(x: Any) -> Any:
    return x.values if isinstance(x, RowTimes) else x


_NUMPY: dict[torch.dtype, Any] = {torch.float32: np.float32, torch.float16: np.float16}

Time = float | Tensor | RowTimes
"""A time inside a solve.

A host float where all rows of a batch share their steps, :class:`RowTimes` where every row has its own. Where the solve
is differentiated with respect to time it is a tensor: 0-d for shared steps, ``[B, 1, ..., 1]`` for steps by row.
"""


def coefficient(x: Time, y: Tensor) -> float | Tensor:
    """``x`` as something that multiplies ``y`` without changing its dtype."""
    if isinstance(x, RowTimes):
        return x.tensor(y)
    return x.to(y.real.dtype) if isinstance(x, Tensor) else x


def host(x: Time) -> Any:
    """``x`` as a host float, or as an array ``[B]`` of them where rows have times of their own."""
    if isinstance(x, RowTimes):
        return x.values
    if not isinstance(x, Tensor):
        return x
    if x.ndim:
        return on_host(x).reshape(-1)
    return float(lanes.same(x, "times and step sizes, which this solver reads on the host,"))


def on_host(x: Tensor) -> np.ndarray:
    """The numbers in a real tensor as a float64 array on the host, without a tensor of that dtype."""
    if lanes.transformed():
        return np.asarray(lanes.same(x, "numbers that are read on the host").tolist(), dtype=np.float64)
    x = x.detach().cpu()
    return np.asarray((x.float() if x.dtype is torch.bfloat16 else x).numpy(), dtype=np.float64)


def _wide(ts: Tensor | None) -> Tensor | None:
    """Times in float64, where the device has it, so that step sizes do not suffer from times in a narrow dtype."""
    return ts if ts is None or ts.device.type == "mps" else ts.double()


@attrs.frozen(eq=False)
class Clock:
    """Maps the loop's host times to the times that steps compute with.

    Without ``ts`` that is the identity. With ``ts``, the tensor ``[T]`` of output times, every interior time moves with
    the ends of the span as if the grid were stretched: ``t(τ) = t0 + (t1 - t0) (τ - τ0)/(τ1 - τ0)``, but for
    discontinuities of f, which stay where they are (see :mod:`odekit.core.stretch`). Derivatives with respect to the
    output times then follow from differentiating the steps.

    Attributes:
        times: the output times on the host.
        ts: the same as a tensor.
        fixed: times that do not move, in increasing order.
    """

    times: tuple[float, ...]
    ts: Tensor | None = attrs.field(default=None, converter=_wide)
    fixed: tuple[float, ...] = ()

    @property
    def differentiable(self) -> bool:
        return self.ts is not None

    def __call__(self, t: float) -> Time:
        if self.ts is None:
            return t
        of_first, of_last = self.shares(t)
        moved = t + of_first * self._motion(0)
        return moved + of_last * self._motion(-1) if of_last else moved

    def _motion(self, end: int) -> Tensor:
        """By how much an end of the span moves: not at all in value, unless lanes have spans of their own."""
        assert self.ts is not None
        t = self.ts[end]
        return t - (self.times[end] if lanes.has_lanes(t) else t.detach())

    def shares(self, t: float) -> tuple[float, float]:
        """How much of a movement of either end of the span an interior time takes part in."""
        ends = np.array(self.times[0]), np.array(self.times[-1])
        of_first, of_last = shares(np.array(t), *ends, np.array(self.fixed))
        return float(of_first), float(of_last)

    def output(self, index: int) -> Time:
        """The ``index``-th output time."""
        return self.times[index] if self.ts is None else self.ts[index]
