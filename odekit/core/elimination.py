"""Gaussian elimination written out for the smallest matrices: operations on entries alone, which a graph runs as one.

Outside of a graph LAPACK is faster, for every operation here would be a call of its own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LARGEST = 4
"""The largest matrix for which this is worth it."""


class Elimination(NamedTuple):
    """The factors of one matrix ``[n, n]``, or of one block a row ``[B, n, n]``, with partial pivoting.

    Golub & Van Loan, *Matrix Computations*, section 3.4. A singular matrix gives infinities or NaN when solved with.

    Attributes:
        rows: n rows of n entries, 0-d or ``[B]`` each: U on and above the diagonal, the multipliers of L below it.
        swaps: for every column, whether its row is swapped with the next one, with the one after that, and so on.
    """

    rows: tuple[tuple[Tensor, ...], ...]
    swaps: tuple[tuple[Tensor, ...], ...]

    @property
    def whole(self) -> bool:
        return True

    @classmethod
    def of(cls, matrix: Tensor) -> Elimination:
        rows = [list(row.unbind(-1)) for row in matrix.unbind(-2)]
        n = len(rows)
        swaps = []
        for k in range(n):
            swapped = []
            for i in range(k + 1, n):
                larger = rows[i][k].abs() > rows[k][k].abs()
                both = [_swapped(larger, a, b) for a, b in zip(rows[k], rows[i], strict=True)]
                rows[k], rows[i] = [a for a, _ in both], [b for _, b in both]
                swapped.append(larger)
            swaps.append(tuple(swapped))
            for i in range(k + 1, n):
                factor = rows[i][k] / rows[k][k]
                left = [rows[i][j] - factor * rows[k][j] for j in range(k + 1, n)]
                rows[i] = [*rows[i][:k], factor, *left]
        return cls(tuple(map(tuple, rows)), tuple(swaps))

    def solve(self, right: Tensor) -> Tensor:
        """The solution for a right-hand side of n numbers, or of n numbers a row, in the shape of that."""
        rows, n = self.rows, len(self.rows)
        blocks = rows[0][0].ndim > 0
        xs = list(right.reshape(right.shape[0] if blocks else 1, n).unbind(-1))
        if not blocks:
            xs = [x.squeeze(0) for x in xs]
        for k, swapped in enumerate(self.swaps):
            for i, larger in enumerate(swapped, start=k + 1):
                xs[k], xs[i] = _swapped(larger, xs[k], xs[i])
        for i in range(n):
            for k in range(i):
                xs[i] = xs[i] - rows[i][k] * xs[k]
        for i in reversed(range(n)):
            for k in range(i + 1, n):
                xs[i] = xs[i] - rows[i][k] * xs[k]
            xs[i] = xs[i] / rows[i][i]
        return torch.stack(xs, -1).reshape(right.shape)


def _swapped(yes: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return torch.where(yes, b, a), torch.where(yes, a, b)
