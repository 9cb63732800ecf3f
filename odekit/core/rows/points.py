"""Points of trajectories, any number of each row's, and laying them out by row."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
import numpy as np
import torch
from torch import Tensor

from odekit.core.rows.selection import Selection, pick


@attrs.frozen(eq=False)
class Points:
    """Times and states of rows; those of a row are in the order in which they came.

    Attributes:
        row: ``[N]``, of which row.
        event: ``[N]``, which event happened there, -1 for none.
        t, y: the times ``[N]`` and the packed states ``[N, ...]``.
    """

    row: np.ndarray
    event: np.ndarray
    t: Tensor
    y: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Points]) -> Points:
        """Those of all parts, one part after the other."""
        return cls(
            np.concatenate([part.row for part in parts]),
            np.concatenate([part.event for part in parts]),
            torch.cat([part.t for part in parts]),
            torch.cat([part.y for part in parts]),
        )

    def only(self, chosen: np.ndarray) -> Points:
        """Those where the mask ``[N]`` is set."""
        places = np.flatnonzero(chosen)
        at, on = Selection(places, self.t.device), Selection(places, self.y.device)
        return Points(self.row[places], self.event[places], pick(self.t, at), pick(self.y, on))

    def last_of(self, rows: np.ndarray) -> Points:
        """The last one of each of these rows, in that order."""
        places = np.full(int(self.row.max(initial=-1)) + 1, -1)
        places[self.row] = np.arange(len(self.row))
        at, on = Selection(places[rows], self.t.device), Selection(places[rows], self.y.device)
        return Points(rows, self.event[places[rows]], pick(self.t, at), pick(self.y, on))

    def by_row(self, count: int) -> tuple[Tensor, Tensor]:
        """Times ``[B, K]`` and states ``[B, K, ...]`` of B rows, with NaN where a row has fewer than K."""
        order = np.argsort(self.row, kind="stable")
        row = self.row[order]
        rank = np.arange(len(row)) - np.searchsorted(row, row)
        place = np.full((count, int(rank.max(initial=-1)) + 1), len(row))
        place[row, rank] = order
        return _padded(self.t, place), _padded(self.y, place)


def _padded(x: Tensor, place: np.ndarray) -> Tensor:
    x = torch.cat([x, x.new_full((1, *x.shape[1:]), math.nan)])
    return x.index_select(0, Selection(place.reshape(-1), x.device).tensor).reshape(*place.shape, *x.shape[1:])
