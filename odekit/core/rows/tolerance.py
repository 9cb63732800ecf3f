"""Tolerances by row: the error of every row is measured on its own."""

from __future__ import annotations

import math

import attrs
import torch
from torch import Tensor

from odekit.core.rows.selection import Selection, pick
from odekit.core.tolerance import Norm, Tolerance, largest, rms


def _row_rms(x: Tensor) -> Tensor:
    flat = x if x.ndim == 2 else x.reshape(len(x), math.prod(x.shape[1:]))
    return torch.linalg.vector_norm(flat, dim=1) / math.sqrt(max(flat.shape[1], 1))


def _row_largest(x: Tensor) -> Tensor:
    flat = x.abs().reshape(len(x), math.prod(x.shape[1:]))
    return flat.amax(1) if flat.shape[1] else flat.new_zeros(len(x))


def norm_by_row(norm: Norm) -> Norm:
    """The norm of every row ``[B]``, where ``norm`` gives that of a state with one row, ``[1, ...]``."""
    if norm is rms:
        return _row_rms
    if norm is largest:
        return _row_largest
    return lambda x: torch.stack([norm(row[None]).reshape(()) for row in x]) if len(x) else x.real.new_zeros(0)


@attrs.frozen(eq=False)
class RowTolerance(Tolerance):
    """A tolerance whose ``norm`` and ``ratio`` give ``[B]``, one number a row.

    Attributes:
        single: the norm of a state with one row.
    """

    single: Norm = rms

    @classmethod
    def of(cls, tolerance: Tolerance) -> RowTolerance:
        return cls(tolerance.rtol, tolerance.atol, norm_by_row(tolerance.norm), tolerance.norm)

    def on(self, rows: Selection) -> RowTolerance:
        """The tolerance of these rows."""
        return attrs.evolve(self, rtol=pick(self.rtol, rows), atol=pick(self.atol, rows))

    def alone(self, row: int) -> Tolerance:
        """The tolerance of one row, for a state with one row."""
        rtol, atol = (x[row : row + 1] if isinstance(x, Tensor) else x for x in (self.rtol, self.atol))
        return Tolerance(rtol, atol, self.single)
