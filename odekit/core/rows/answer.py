"""What a solve by rows returns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import numpy as np
from torch import Tensor

from odekit.core.rows.dense import RowPieces
from odekit.core.rows.monitor import RowHits
from odekit.core.rows.points import Points
from odekit.core.rows.selection import Selection, pick
from odekit.core.solution import Stats, Status


@attrs.frozen
class RowStatus(Sequence[Status]):
    """How each row of a solve ended: a sequence of B :class:`~odekit.core.solution.Status`."""

    rows: tuple[Status, ...]

    @property
    def ok(self) -> bool:
        """Whether all rows reached their end."""
        return all(status.ok for status in self.rows)

    @property
    def failed(self) -> list[int]:
        """The numbers of the rows that did not."""
        return [row for row, status in enumerate(self.rows) if not status.ok]

    @property
    def hint(self) -> str:
        """What a user can try next: the hint for the first row that failed."""
        return self.rows[self.failed[0]].hint if self.failed else ""

    def __getitem__(self, row: Any) -> Any:
        return self.rows[row]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Status]:
        return iter(self.rows)

    def __str__(self) -> str:
        kinds = dict.fromkeys(self.rows)
        counts = (f"{sum(status is kind for status in self.rows)} of {len(self)} rows {kind}" for kind in kinds)
        return "; ".join(counts) or "no rows"


@attrs.frozen(eq=False)
class RowStats:
    """What a solve by rows cost.

    Attributes:
        steps, accepted, rejected: int64 tensors ``[B]`` on the CPU, one number a row.
        costs: where the calls of f are counted; the counts below are their sums.
        gradient, why: the name of the gradient method that was used, and the reason if a rule picked it.
    """

    steps: Tensor
    accepted: Tensor
    rejected: Tensor
    costs: tuple[Stats, ...]
    gradient: str = ""
    why: str = ""

    @property
    def nfe(self) -> int:
        """Calls of f in the forward solve, on however many rows at once."""
        return sum(cost.nfe for cost in self.costs)

    @property
    def jacobians(self) -> int:
        """Jacobians of f, of however many rows at once."""
        return sum(cost.jacobians for cost in self.costs)

    @property
    def nfe_backward(self) -> int:
        """Calls of f in backward passes so far."""
        return sum(cost.nfe_backward for cost in self.costs)

    @property
    def steps_backward(self) -> int:
        """Steps in backward passes so far, a step of any number of rows at once counting as one."""
        return sum(cost.steps_backward for cost in self.costs)


@attrs.frozen(eq=False)
class Happened:
    """The crossings among the outputs of all rows, those of a row in the order in which they happened.

    Attributes:
        row, column: ``[N]``, of which row, and which of its outputs they are.
        event: ``[N]``, which event.
        slope: dy/dt there, ``[N, ...]``, detached.
    """

    row: np.ndarray
    column: np.ndarray
    event: np.ndarray
    slope: Tensor

    @classmethod
    def among(cls, events: np.ndarray, found: Sequence[RowHits], like: Tensor) -> Happened:
        """Those that are outputs, as ``events [B, S]`` tell; of what was found, others are left out."""
        hits = RowHits.joined(found, like)
        row, column = np.nonzero(events >= 0)
        kept = hits.rank < np.bincount(row, minlength=len(events))[hits.row]
        slope = pick(hits.slope, Selection(np.flatnonzero(kept), like.device))
        return cls(row, column, events[row, column], slope)


@attrs.frozen(eq=False)
class RowJourney:
    """What rows met on their way from their first times to their ends.

    Attributes:
        crossings: the events that happened.
        steps: the starts and the ends of all steps; None if they are not asked for.
        ended: ``[B]``, the event that ended each row, -1 where none did.
    """

    crossings: Points
    steps: Points | None
    ended: np.ndarray


@attrs.frozen(eq=False)
class RowOutcome:
    """A finished integration on packed tensors.

    Attributes:
        ys: ``[B, S, ...]``, NaN where a row did not get to.
        t1: ``[B]``, where each row ended.
        y1: ``[B, ...]``, the states there; detached where an event ended the row.
        statuses: ``[B]``, why.
        sizes: ``[B]``, the step sizes that the control would have tried next.
        reached: ``[B]``, how many outputs each row got to.
        broken: ``[B]``, which rows end at the last of these because what followed was not finite.
        times: ``[B, S]``, the host times of ``ys``, NaN where they are padding.
        index: ``[B, S]``, which of the caller's output times they are, -1 for none.
        pieces: what was kept for dense output; None if nothing was to be kept, or it was too much.
        happened: the events among the outputs; None if none were looked for.
        journey: what rows met, where they have gone through all of their events; ``ys`` then are the caller's.
    """

    ys: Tensor
    t1: np.ndarray
    y1: Tensor
    statuses: RowStatus
    stats: RowStats
    sizes: np.ndarray
    reached: np.ndarray
    broken: np.ndarray
    times: np.ndarray
    index: np.ndarray
    pieces: RowPieces | None = None
    happened: Happened | None = None
    journey: RowJourney | None = None
