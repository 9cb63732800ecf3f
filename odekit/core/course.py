"""What a solve does on its way, beside stepping from the first time to the last."""

from __future__ import annotations

import attrs

from odekit.core.callbacks import Callbacks
from odekit.core.dense import Kept, Recorder
from odekit.core.events import Watch
from odekit.core.sections import Stops
from odekit.core.solution import Stats


@attrs.frozen(eq=False)
class Course:
    """Settings of one run of the loop.

    Attributes:
        stops: times at which steps must end.
        watches: events to look for.
        fired: the event that has just happened where this run starts.
        every_step: whether the end of every accepted step is an output, in place of the times in between.
        callbacks: hooks on packed states.
        recorder: keeps the accepted steps for dense output.
        stats: the counters to go on with; those of a solve that goes on after a state jump are shared.
    """

    stops: Stops = attrs.field(factory=Stops)
    watches: tuple[Watch, ...] = ()
    fired: int | None = None
    every_step: bool = False
    callbacks: Callbacks = attrs.field(factory=Callbacks)
    recorder: Recorder[Kept] | None = None
    stats: Stats = attrs.field(factory=Stats)

    @property
    def quiet(self) -> bool:
        """Whether nothing is to be done between steps but to note the planned outputs and the steps themselves."""
        return not (self.watches or self.every_step or self.stops.times or self.stops.jumps) and self.callbacks.silent
