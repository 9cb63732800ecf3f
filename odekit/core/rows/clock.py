"""The times of a solve by rows, host arrays or tensors that can be differentiated."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from odekit.core.rows.selection import Selection
from odekit.core.stretch import shares
from odekit.core.times import RowTimes, Time


class RowClock:
    """Maps the loop's host times to the times that steps compute with, row by row.

    Without ``ts`` these are :class:`~odekit.core.times.RowTimes`. With ``ts``, the tensor ``[B, T]`` of output times,
    every interior time of a row moves with both ends of that row's span, as in :class:`~odekit.core.times.Clock`.

    Attributes:
        times: ``[B, T]``, the output times on the host; the last ones of a row may be infinite.
        fixed: times that do not move, in increasing order.
    """

    def __init__(self, times: np.ndarray, ts: Tensor | None, y: Tensor, fixed: np.ndarray | None = None) -> None:
        self.times = times
        self.fixed = np.zeros(0) if fixed is None else fixed
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
        return self._moving(t, rows, self.ts).reshape(*t.shape, *self._wide)

    def shares(self, t: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How much of a movement of either end of their spans the times ``t [..., K]`` of these rows take part in."""
        return shares(t, self.times[rows, 0], self.times[rows, -1], self.fixed)

    def _moving(self, t: np.ndarray, rows: Selection, ts: Tensor) -> Tensor:
        """The times ``t [..., K]`` of these rows as a tensor that moves with the ends of their spans."""
        ends = ts.index_select(0, rows.tensor)[:, [0, -1]]
        moved = torch.where(ends.isfinite(), ends - ends.detach(), torch.zeros_like(ends))
        of_first, of_last = (torch.from_numpy(share).to(ends) for share in self.shares(t, rows.index))
        return torch.from_numpy(t).to(ends) + of_first * moved[:, 0] + of_last * moved[:, 1]

    def along(self, t: np.ndarray) -> Tensor:
        """The times ``t [B, S]`` of all rows as a tensor that moves with the ends of the spans; NaN stays.

        For a clock that is ``differentiable``.
        """
        assert self.ts is not None
        everyone, lost = Selection(np.arange(len(t)), self.ts.device), np.isnan(t)
        made = self._moving(np.where(lost, self.times[:, :1], t).T, everyone, self.ts).T
        return made.masked_fill(torch.from_numpy(lost).to(made.device), torch.nan)

    def outputs(self, rows: Selection, tau: np.ndarray, index: np.ndarray) -> Time:
        """The times ``tau [N, K]`` of these rows ``[K]``, which are the outputs numbered ``index``, -1 for none."""
        if self.ts is None:
            return RowTimes(tau)
        number = torch.from_numpy(np.ascontiguousarray(np.maximum(index, 0).T)).to(self.ts.device)
        found = self.ts.index_select(0, rows.tensor).gather(1, number).T
        if (index < 0).any():
            found = torch.where(torch.from_numpy(index >= 0).to(found.device), found, self._moving(tau, rows, self.ts))
        return found.reshape(*tau.shape, *self._wide)
