"""Forced step ends of rows: the times at which steps must end, and those at which f itself jumps."""

from __future__ import annotations

from collections.abc import Iterable

import attrs
import numpy as np

from odekit.core.sections import Stops, numbers


@attrs.frozen(eq=False)
class RowStops:
    """The same times for all rows; each heeds those within its span.

    Attributes:
        times: all of them, in increasing order.
        jumps: those at which f is discontinuous, in increasing order.
    """

    times: np.ndarray = attrs.field(factory=lambda: np.zeros(0))
    jumps: np.ndarray = attrs.field(factory=lambda: np.zeros(0))

    @classmethod
    def of(cls, step_times: Iterable[float], jump_times: Iterable[float]) -> RowStops:
        """The stops of a solve.

        Raises:
            InputError: an entry is no finite number.
        """
        jumps = np.unique(numbers(jump_times, "jump_times"))
        return cls(np.union1d(numbers(step_times, "step_times"), jumps), jumps)

    def next_after(self, t: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Where the steps that begin at ``t [K]``, on their way to ``end [K]``, must end at the latest."""
        if not len(self.times):
            return end
        after = np.append(self.times, np.inf)[np.searchsorted(self.times, t, side="right")]
        before = np.append(-np.inf, self.times)[np.searchsorted(self.times, t, side="left")]
        return np.where(end > t, np.minimum(after, end), np.maximum(before, end))

    def around(self, t: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The discontinuities on either side of steps that begin at ``t``; infinite where there is none."""
        low, high = np.append(-np.inf, self.jumps), np.append(self.jumps, np.inf)
        after, before = (np.searchsorted(self.jumps, t, side=side) for side in ("right", "left"))  # type: ignore[call-overload]
        place = np.where(end > t, after, before)
        return low[place], high[place]

    def crossed(self, t: np.ndarray) -> np.ndarray:
        """Which of these times are discontinuities."""
        return np.isin(t, self.jumps)

    def alone(self, t0: float, t1: float) -> Stops:
        """Those of one row."""
        return Stops.of(self.times.tolist(), self.jumps.tolist(), t0, t1)
