"""A solver that can take all steps of a solve by itself, as the loops see it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import numpy as np
from torch import Tensor

from odekit.core.protocols import ODESolver, StepControl
from odekit.core.solution import Status
from odekit.core.tolerance import Tolerance


@attrs.frozen(eq=False)
class Start:
    """Where a loop over steps begins. What is one number a lane is a 0-d array, or ``[B]`` with steps by row.

    Attributes:
        t, wanted, t_end: the time, where the first step should end, and the last time.
        y, carry: the state, and what the solver was handed.
        judged: what the control remembers.
        budget: how many steps may be tried.
        times: the output times on the way and at the end: ``[T, *S]``; those of a row may end in infinities.
    """

    t: np.ndarray
    wanted: np.ndarray
    t_end: np.ndarray
    y: Tensor
    carry: Any
    judged: Any
    budget: np.ndarray
    times: np.ndarray

    @classmethod
    def of(
        cls, t: float, wanted: float, t_end: float, y: Tensor, carry: Any, judged: Any, budget: int,
        times: Sequence[float],
    ) -> Start:  # fmt: skip
        """That of a loop with shared steps."""
        first, next_end, last = (np.array(x, dtype=np.float64) for x in (t, wanted, t_end))
        limit, outputs = np.array(budget, dtype=np.int64), np.array(times, dtype=np.float64)
        return cls(first, next_end, last, y, carry, judged, limit, outputs)


@attrs.frozen(eq=False)
class Stretch:
    """A number of steps that were taken.

    Attributes:
        t, y: time and state at the end.
        wanted: where the next step should end.
        statuses: how each lane stands; None for one that is on its way.
        steps, accepted: how many were tried and accepted, since the start.
        outputs: the number of outputs reached since the start.
        ys: the states at outputs, ``[T, *y.shape]``; what was not reached means nothing. None if there is but the end.
        kept: of a single lane, the accepted steps of this stretch: their ends, and the states at their starts.
    """

    t: np.ndarray
    y: Tensor
    wanted: np.ndarray
    statuses: Sequence[Status | None]
    steps: np.ndarray
    accepted: np.ndarray
    outputs: np.ndarray
    ys: Tensor | None
    kept: tuple[np.ndarray, Tensor] | None


class LoopingSolver(ODESolver):
    """A solver that can take all steps of a solve by itself."""

    @abstractmethod
    def loop(
        self, f: Any, start: Start, control: StepControl, tolerance: Tolerance, keep: bool
    ) -> Iterator[Stretch] | None:
        """The steps from ``start`` on, in stretches; None where they must be taken one by one.

        ``keep`` asks for the accepted steps themselves.
        """
