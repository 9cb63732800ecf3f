"""The times of a solve by rows, host arrays or tensors that can be differentiated."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from odekit.core.rows.selection import Selection
from odekit.core.times import RowTimes, Time


class RowClock:
    """Maps the loop's host times to the times that steps compute with, row by row.

    Without ``ts`` these are :class:`~odekit.core.times.RowTimes`. With ``ts``, the tensor ``[B, T]`` of output times,
    every interior time of a row moves with both ends of that row's span, as in :class:`~odekit.core.times.Clock`.

    Attributes:
        times: ``[B, T]``, the output times on the host.
    """

    def __init__(self, times: np.ndarray, ts: Tensor | None, y: Tensor) -> None:
        self.times = times
        self.ts = None
        if ts is not None:
            self.ts = ts.to(y.device, ts.dtype if "mps" in (ts.device.type, y.device.type) else torch.float64)
        self._wide = (1,) * (y.ndim - 1)

    @property
    def differentiable(self) -> bool:
        return self.ts is not None

    def __call__(self, t: np.ndarray, rows: Selection) -> Time:
        """The times ``t [K]`` of these rows ``[K]``."""
        if self.ts is None:
            return RowTimes(t)
        first, last = self.times[rows.index, 0], self.times[rows.index, -1]
        with np.errstate(invalid="ignore", divide="ignore"):
            part = np.where(first == last, 0.0, (t - first) / (last - first))
        ends = self.ts.index_select(0, rows.tensor)
        weight = torch.as_tensor(part, dtype=ends.dtype, device=ends.device)
        return torch.lerp(ends[:, 0], ends[:, -1], weight).reshape(-1, *self._wide)

    def along(self, t: np.ndarray) -> Tensor:
        """The times ``t [B, S]`` of all rows as a tensor that moves with the ends of the spans; NaN stays.

        Raises:
            AttributeError: the clock has no ``ts``.
        """
        ends: Any = self.ts
        first, span = self.times[:, :1], self.times[:, -1:] - self.times[:, :1]
        part = np.where(np.isnan(t) | (span == 0), 0.0, (t - first) / np.where(span == 0, 1.0, span))
        made = torch.lerp(ends[:, :1], ends[:, -1:], torch.as_tensor(part, dtype=ends.dtype, device=ends.device))
        return made.masked_fill(torch.from_numpy(np.isnan(t)).to(made.device), torch.nan)

    def outputs(self, rows: Selection, k: np.ndarray) -> Time:
        """The output times with numbers ``k [N, K]`` of these rows ``[K]``."""
        if self.ts is None:
            return RowTimes(self.times[rows.index, k])
        ts = self.ts.index_select(0, rows.tensor)
        found = ts.gather(1, torch.from_numpy(np.ascontiguousarray(k.T)).to(ts.device)).T
        return found.reshape(*k.shape, *self._wide)
