"""What a solve returns: the answer, why it ended, and what it cost."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Protocol

import attrs
from torch import Tensor

from odekit.errors import InputError

if TYPE_CHECKING:
    from odekit.core.rows.answer import RowStats, RowStatus


class Status(enum.Enum):
    """How a solve ended. Each member's value is the sentence that the user reads."""

    SUCCESS = "reached the last output time"
    EVENT = "a terminal event ended the solve"
    MAX_STEPS = "used up max_steps before the last output time"
    STEP_UNDERFLOW = "the step size fell below the resolution of time; the problem may be stiff or singular"
    NON_FINITE = "the state or its derivative became NaN or infinite"
    NEWTON_DIVERGED = "the Newton iteration of an implicit step did not converge"

    @property
    def ok(self) -> bool:
        """Whether the solve came to the end that was asked for: the last output time, or a terminal event."""
        return self in (Status.SUCCESS, Status.EVENT)

    @property
    def hint(self) -> str:
        """What a user can try next."""
        return _HINTS[self]

    def __str__(self) -> str:
        return self.value


_HINTS = {
    Status.SUCCESS: "",
    Status.EVENT: "",
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
    grows when ``backward()`` runs. ``gradient`` is the name of the gradient method that was used, ``why`` the reason if
    a rule picked it.
    """

    nfe: int = 0
    steps: int = 0
    accepted: int = 0
    rejected: int = 0
    jacobians: int = 0
    nfe_backward: int = 0
    steps_backward: int = 0
    gradient: str = ""
    why: str = ""


@attrs.frozen(eq=False)
class EventLog:
    """The crossings of one event, in the order in which they happened.

    Attributes:
        ts: their times, ``[K]``; by row ``[B, K]``, where K is the largest count of any row, and NaN fills up others.
        ys: the states there (before a jump), ``[K, ...]`` or ``[B, K, ...]``, nested as ``y0``.
    """

    ts: Tensor
    ys: Any


@attrs.frozen(eq=False)
class Solution:
    """The answer of :func:`odekit.solve`.

    After ``batch="rows"`` what follows is by row, as :func:`odekit.solve` tells.

    Attributes:
        ts: the output times, ``[T]``; with ``save="steps"`` those of the accepted steps.
        ys: the state at them, ``[T, ...]`` for a tensor state; for a nested state the same nesting with such leaves.
            Outputs that a failed solve, or one that an event ended, did not reach are NaN.
        status: how the solve ended.
        stats: what it cost.
        t1: the time at which it ended; ``ts[-1]`` on success.
        y1: the state there, nested as ``y0``.
        events: the crossings of each event that was given, in the same order.
        event: which of them ended the solve, if one did; by row a tuple of such numbers, None where none did.
        dense: the piecewise interpolant, if it was kept.
    """

    ts: Tensor
    ys: Any
    status: Status | RowStatus
    stats: Stats | RowStats
    t1: float | Tensor
    y1: Any
    events: tuple[EventLog, ...] = ()
    event: int | tuple[int | None, ...] | None = None
    dense: Interpolant | None = None

    def interpolate(self, t: Any) -> Any:
        """The state at any time that was solved for, by the solver's own dense output.

        Args:
            t: a number, or numbers ``[K]``, in any order; may require grad. After ``batch="rows"`` these are for all
                rows, and ``[B, K]`` are times of each row's own.

        Returns:
            The state, nested as ``y0``; for ``[K]`` times with an axis ``K`` in front. For ``[B, K]`` times
            ``[B, K, ...]``. Rows that were not solved at a time for all rows have NaN there.

        Raises:
            InputError: a time lies outside what was solved (for all rows, or for the row whose own it is), or the
                steps were not kept (see ``dense=``).
        """
        return self._interpolant()(t)

    def derivative(self, t: Any) -> Any:
        """dy/dt of what :meth:`interpolate` gives; arguments and errors are the same."""
        return self._interpolant()(t, derivative=True)

    def _interpolant(self) -> Interpolant:
        if self.dense is None:
            raise InputError(
                "the steps of this solve were not kept, so there is nothing to interpolate; "
                "solve with dense=True to keep them whatever their size"
            )
        return self.dense


class Interpolant(Protocol):
    """The answer at any time."""

    def __call__(self, t: Any, derivative: bool = False) -> Any: ...
