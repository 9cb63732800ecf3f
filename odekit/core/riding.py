"""Following a solver that takes the steps of a solve by itself: outputs, records and counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from odekit.core.accepted import Accepted
from odekit.core.course import Course
from odekit.core.dense import Kept
from odekit.core.looping import Stretch
from odekit.core.outputs import Outputs
from odekit.core.protocols import ODESolver, Step
from odekit.core.solution import Status


def ride(
    stretches: Iterable[Stretch],
    t: float,
    carry: Any,
    f: Any,
    solver: ODESolver,
    outputs: Outputs,
    course: Course,
    on_accept: Callable[[Accepted], None] | None,
) -> tuple[float, Tensor, float, Status]:
    """Note what the steps from ``t`` on bring, of a solver that hands on ``carry`` if it is not ``memoryless``.

    Returns time, state, where the next step should end, and the status.
    """
    stats, steps, accepted, fresh = course.stats, 0, 0, True
    for stretch in stretches:
        stats.steps += int(stretch.steps) - steps
        stats.accepted += int(stretch.accepted) - accepted
        stats.rejected += int(stretch.steps - stretch.accepted) - (steps - accepted)
        steps, accepted = int(stretch.steps), int(stretch.accepted)
        if stretch.kept is not None:
            handed = None if solver.memoryless else carry
            spans, starts = stretch.kept
            ends = [*starts[1:], stretch.y]
            for (begin, end), y0, y1 in zip(spans.tolist(), starts, ends, strict=True):
                first = len(outputs.slots)
                slots = outputs.told(end, stretch.ys, y1)
                if course.recorder is not None:
                    course.recorder.add(Kept(begin, end, Step(begin, end, y0, y1, carry=handed), f, solver, False))
                if on_accept is not None:
                    kept = None if fresh else handed
                    on_accept(Accepted(begin, end, fresh, first, slots, y0=y0, carry=kept))
                fresh = False
        t = float(stretch.t)
        outputs.told(t, stretch.ys, stretch.y)
        y, wanted, status = stretch.y, float(stretch.wanted), stretch.statuses[0]
    return t, y, wanted, Status.SUCCESS if status is None else status
