"""Forced step ends: times at which a step must end, and those at which f itself jumps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import attrs

from odekit.errors import InputError


@attrs.frozen
class Section:
    """A stretch of time in which f is continuous, from one discontinuity to the next; infinite where there is none."""

    low: float
    high: float


@attrs.frozen
class Stops:
    """The times at which steps must end, in the direction of the solve.

    Attributes:
        times: all of them, strictly inside the span.
        jumps: the times at which f is discontinuous, within the closed span; those inside are among ``times``.
    """

    times: tuple[float, ...] = ()
    jumps: tuple[float, ...] = ()

    @classmethod
    def of(cls, step_times: Iterable[float], jump_times: Iterable[float], t0: float, t1: float) -> Stops:
        """The stops of a solve from ``t0`` to ``t1``; times outside it do not matter to it.

        Raises:
            InputError: an entry is no finite number.
        """
        low, high, backwards = min(t0, t1), max(t0, t1), t1 < t0
        jumps = {t for t in numbers(jump_times, "jump_times") if low <= t <= high}
        inside = {t for t in {*numbers(step_times, "step_times"), *jumps} if low < t < high}
        return cls(tuple(sorted(inside, reverse=backwards)), tuple(sorted(jumps, reverse=backwards)))

    def next_after(self, t: float, t_end: float) -> float:
        """Where the step that begins at ``t`` must end at the latest."""
        ahead = t_end > t
        return next((stop for stop in self.times if (stop > t if ahead else stop < t)), t_end)

    def section(self, t0: float, t1: float) -> Section | None:
        """The section that a step from ``t0`` to ``t1`` lies in; None if f has no discontinuities."""
        if not self.jumps:
            return None
        low, high = min(t0, t1), max(t0, t1)
        before = max((t for t in self.jumps if t <= low), default=-math.inf)
        after = min((t for t in self.jumps if t >= high), default=math.inf)
        return Section(before, after)


def numbers(times: Iterable[float], name: str) -> Sequence[float]:
    """The times that a caller gave as the option ``name``.

    Raises:
        InputError: they are no sequence of finite numbers.
    """
    if isinstance(times, int | float):
        raise InputError(f"{name}={times!r}: expected a sequence of times; write {name}=[{times!r}]")
    numbers = [float(t) for t in times]
    for t in numbers:
        if not math.isfinite(t):
            raise InputError(f"{name} holds {t}; times must be finite")
    return numbers
