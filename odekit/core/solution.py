"""What a solve returns: the answer, why it ended, and what it cost."""

from __future__ import annotations

import enum
from typing import Any

import attrs
from torch import Tensor


class Status(enum.Enum):
    """How a solve ended. Each member's value is the sentence that the user reads."""

    SUCCESS = "reached the last output time"
    MAX_STEPS = "used up max_steps before the last output time"
    STEP_UNDERFLOW = "the step size fell below the resolution of time; the problem may be stiff or singular"
    NON_FINITE = "the state or its derivative became NaN or infinite"
    NEWTON_DIVERGED = "the Newton iteration of an implicit step did not converge"

    @property
    def ok(self) -> bool:
        """Whether the solve reached its end."""
        return self is Status.SUCCESS

    @property
    def hint(self) -> str:
        """What a user can try next."""
        return _HINTS[self]

    def __str__(self) -> str:
        return self.value


_HINTS = {
    Status.SUCCESS: "",
    Status.MAX_STEPS: "Raise max_steps=, loosen rtol=/atol=, or try a stiff solver such as 'kvaerno3'.",
    Status.STEP_UNDERFLOW: (
        "Loosen rtol=/atol=, try a stiff solver such as 'kvaerno3', or look for a singularity near this time."
    ),
    Status.NON_FINITE: "Check f for a division by zero or an overflow near this time and state.",
    Status.NEWTON_DIVERGED: (
        "Use a smaller step_size=, or an adaptive stiff solver such as 'kvaerno3', which retries with smaller steps."
    ),
}


@attrs.define
class Stats:
    """What a solve cost.

    ``nfe`` counts every call of the user's f in the forward solve, whatever it was for (stages, the first step size,
    Newton iterations, Jacobians, dense output). ``nfe_backward`` counts the calls made by backward passes so far; it
    grows when ``backward()`` runs.
    """

    nfe: int = 0
    steps: int = 0
    accepted: int = 0
    rejected: int = 0
    jacobians: int = 0
    nfe_backward: int = 0
    steps_backward: int = 0


@attrs.frozen(eq=False)
class Solution:
    """The answer of :func:`odekit.solve`.

    Attributes:
        ts: the output times, ``[T]``.
        ys: the state at them, ``[T, ...]`` for a tensor state; for a nested state the same nesting with such leaves.
            Outputs that a failed solve did not reach are NaN.
        status: how the solve ended.
        stats: what it cost.
        t1: the time at which it ended; ``ts[-1]`` on success.
        y1: the state there, nested as ``y0``.
    """

    ts: Tensor
    ys: Any
    status: Status
    stats: Stats
    t1: float
    y1: Any
