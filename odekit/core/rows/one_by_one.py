"""Rows solved one after the other, each by the ordinary loop, for solvers that cannot step them at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odekit.core.callbacks import Callbacks
from odekit.core.course import Course
from odekit.core.dense import DenseOutput, Kept, Recorder
from odekit.core.field import Field
from odekit.core.legs import Journey, Point, travel
from odekit.core.problem import Problem
from odekit.core.protocols import GradientMethod, ODESolver, StepControl
from odekit.core.rows.answer import RowJourney, RowOutcome, RowStats, RowStatus
from odekit.core.rows.dense import Apart
from odekit.core.rows.points import Points
from odekit.core.rows.problem import RowProblem
from odekit.core.rows.selection import Selection
from odekit.core.rows.watch import WatchOfOne
from odekit.core.solution import Stats
from odekit.errors import DynamicsError


def solve_one_by_one(
    problem: RowProblem, gradient: GradientMethod, solver: ODESolver, control: StepControl
) -> RowOutcome:
    """The same answer as that of the loop over all rows, at the cost of B solves.

    Raises:
        DynamicsError: f cannot be called on single rows.
    """
    if len(problem.y0) > 1 and not problem.dynamics.divisible:
        raise DynamicsError(
            f"solver {solver.name!r} solves one row after the other, and this f gives something else on a part of the "
            "rows than on all of them; pass tensors that have an entry for every row through args=, or choose a solver "
            "that steps all rows at once, such as 'dopri5'"
        )
    alone = [_row(problem, row) for row in range(len(problem.y0))]
    journeys = [travel(row, gradient, solver, control) for row in alone]
    outcomes = [journey.outcome for journey in journeys]
    stats = RowStats(
        torch.tensor([outcome.stats.steps for outcome in outcomes]),
        torch.tensor([outcome.stats.accepted for outcome in outcomes]),
        torch.tensor([outcome.stats.rejected for outcome in outcomes]),
        (Stats(nfe=problem.dynamics.nfe), *(outcome.stats for outcome in outcomes)),
    )
    reached = [sum(len(piece) for piece in journey.planned) for journey in journeys]
    count, length = problem.times.shape
    return RowOutcome(
        ys=torch.stack([_filled(journey.planned, problem.y0[row], length) for row, journey in enumerate(journeys)]),
        t1=np.array([journey.t1 for journey in journeys]),
        y1=torch.cat([journey.y1 for journey in journeys]),
        statuses=RowStatus(tuple(outcome.status for outcome in outcomes)),
        stats=stats,
        sizes=np.array([outcome.step_size for outcome in outcomes]),
        reached=np.array(reached),
        broken=np.zeros(count, dtype=bool),
        times=problem.times,
        index=np.tile(np.arange(length), (count, 1)),
        pieces=_pieces(alone, journeys),
        journey=RowJourney(
            _points(problem, [journey.crossings for journey in journeys]),
            _points(problem, _steps(problem, journeys)) if problem.course.every_step else None,
            np.array([-1 if journey.event is None else journey.event for journey in journeys]),
        ),
    )


def _steps(problem: RowProblem, journeys: Sequence[Journey]) -> list[list[Point]]:
    """The start and the ends of the steps of every row; one at rest has its start alone."""
    still = problem.times[:, 0] == problem.times[:, -1]
    return [journey.steps[: 1 if rests else None] for journey, rests in zip(journeys, still, strict=True)]


def _points(problem: RowProblem, rows: Sequence[Sequence[Point]]) -> Points:
    found = [point for points in rows for point in points]
    return Points(
        np.repeat(np.arange(len(rows)), [len(points) for points in rows]),
        np.array([-1 if point.event is None else point.event for point in found], dtype=np.int64),
        torch.stack([point.t.to(problem.ts) for point in found]) if found else problem.ts.new_empty(0),
        torch.cat([point.y for point in found]) if found else problem.y0.new_empty((0, *problem.y0.shape[1:])),
    )


def _filled(pieces: Sequence[Tensor], y0: Tensor, length: int) -> Tensor:
    """``[length, ...]``, the states of a row ``[n, 1, ...]``, with NaN where it did not get to."""
    states = torch.cat([piece[:, 0] for piece in pieces]) if pieces else y0[None][:0]
    missing = states.new_full((), torch.nan).expand(length - len(states), *states.shape[1:])
    return torch.cat([states, missing]) if len(missing) else states


def _pieces(rows: list[Problem], journeys: Sequence[Journey]) -> Apart | None:
    """What the rows' recorders kept; None if one of them that took a step has nothing."""
    kept: list[DenseOutput | None] = []
    for row, journey in zip(rows, journeys, strict=True):
        recorder = row.course.recorder
        steps: tuple[Kept, ...] = () if recorder is None else tuple(recorder.steps)
        if recorder is None or len(steps) != journey.outcome.stats.accepted:
            return None
        kept.append(DenseOutput(steps, journey.t1, row.layout) if steps else None)
    return Apart(kept)


def _row(problem: RowProblem, row: int) -> Problem:
    dynamics, one = problem.dynamics, slice(row, row + 1)
    rows = Selection(np.array([row]), problem.y0.device)
    layout, y0 = problem.layout.with_rows(1), problem.y0[one]
    times = tuple(problem.times[row].tolist())
    told = _Told(dynamics.f, (1, *dynamics.known.column))
    field = Field(told, dynamics.args_of(rows), layout, y0, (times[0], times[-1]), dynamics.base.autocast)
    given, recorder = problem.course, problem.course.recorder
    course = Course(
        stops=given.stops.alone(times[0], times[-1]),
        watches=tuple(WatchOfOne(w.event, layout, w.args, w, rows) for w in given.watches),
        every_step=given.every_step,
        callbacks=Callbacks() if given.hooks is None else given.hooks.alone(row),
        recorder=None if recorder is None else Recorder(recorder.limit and recorder.limit // len(problem.y0)),
    )
    return Problem(field, y0, layout, times, problem.ts[row], problem.tolerance.alone(row), problem.max_steps, course)


class _Told:
    """f, told the time of one row in the shape in which it is told those of many."""

    def __init__(self, f: Callable[..., Any], shape: tuple[int, ...]) -> None:
        self.__wrapped__ = f
        self.shape = shape

    def __call__(self, t: Tensor, y: Any, *args: Any) -> Any:
        return self.__wrapped__(t.reshape(self.shape), y, *args)
