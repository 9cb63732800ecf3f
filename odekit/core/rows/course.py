"""What a solve by rows does on its way, beside stepping every row from its first time to its last."""

from __future__ import annotations

import attrs

from odekit.core.dense import Recorder
from odekit.core.rows.dense import KeptRows
from odekit.core.rows.hooks import RowHooks
from odekit.core.rows.stops import RowStops


@attrs.frozen(eq=False)
class RowCourse:
    """Settings of one run of the loop over rows.

    Attributes:
        stops: times at which steps must end.
        every_step: whether the end of every accepted step is an output, in place of the times in between.
        hooks: to be told of every iteration; None if nobody wants to know.
        recorder: keeps the steps that counted for dense output.
    """

    stops: RowStops = attrs.field(factory=RowStops)
    every_step: bool = False
    hooks: RowHooks | None = None
    recorder: Recorder[KeptRows] | None = None
