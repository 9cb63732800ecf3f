"""What a solve by rows does on its way, beside stepping every row from its first time to its last."""

from __future__ import annotations

import attrs
import numpy as np

from odekit.core.dense import Recorder
from odekit.core.rows.dense import KeptRows
from odekit.core.rows.hooks import RowHooks
from odekit.core.rows.stops import RowStops
from odekit.core.rows.watch import RowWatch


@attrs.frozen(eq=False)
class RowCourse:
    """Settings of one run of the loop over rows.

    Attributes:
        stops: times at which steps must end.
        every_step: whether the end of every accepted step is an output, in place of the times in between.
        hooks: to be told of every iteration; None if nobody wants to know.
        recorder: keeps the steps that counted for dense output.
        watches: events to look for.
        fired: ``[B]``, the event that has just happened where a row starts, -1 for none; None if all are -1.
        taken: attempted steps that the rows have behind them, one number or ``[B]``.
    """

    stops: RowStops = attrs.field(factory=RowStops)
    every_step: bool = False
    hooks: RowHooks | None = None
    recorder: Recorder[KeptRows] | None = None
    watches: tuple[RowWatch, ...] = ()
    fired: np.ndarray | None = None
    taken: int | np.ndarray = 0

    @property
    def quiet(self) -> bool:
        """Whether nothing is to be done between steps but to note the planned outputs."""
        busy = self.watches or self.every_step or len(self.stops.times) or self.hooks is not None
        return not busy and (self.recorder is None or self.recorder.limit is not None)
