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
from odekit.core.legs import Journey, travel
from odekit.core.problem import Problem
from odekit.core.protocols import GradientMethod, ODESolver, Outcome, StepControl
from odekit.core.rows.answer import RowOutcome, RowStats, RowStatus
from odekit.core.rows.dense import Apart
from odekit.core.rows.problem import RowProblem
from odekit.core.rows.selection import Selection
from odekit.core.rows.watch import Crossings, WatchOfOne
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
    every_step = problem.course.every_step
    reached = [sum(len(piece) for piece in journey.planned) for journey in journeys]
    if every_step:  # a row at rest has one, whatever the number of its times
        reached = [min(outcome.stats.accepted + 1, len(outcome.slots)) for outcome in outcomes]
    times = problem.times
    if every_step:
        times = np.full((len(outcomes), max(reached)), np.nan)
        for row, count in enumerate(reached):
            times[row, :count] = [slot.t for slot in outcomes[row].slots[:count]]
    length = times.shape[1]
    return RowOutcome(
        ys=torch.stack([_filled(states, length) for states in _states(journeys, reached, every_step)]),
        t1=np.array([journey.t1 for journey in journeys]),
        y1=torch.cat([journey.y1 for journey in journeys]),
        statuses=RowStatus(tuple(outcome.status for outcome in outcomes)),
        stats=stats,
        sizes=np.array([outcome.step_size for outcome in outcomes]),
        reached=np.array(reached),
        broken=np.zeros(len(outcomes), dtype=bool),
        times=times,
        pieces=None if problem.watches else _pieces(alone, outcomes),
        crossings=_crossings(problem, journeys) if problem.watches else None,
        events=np.array([-1 if journey.event is None else journey.event for journey in journeys]),
    )


def _states(journeys: Sequence[Journey], reached: Sequence[int], every_step: bool) -> list[Tensor]:
    """Every row's outputs ``[T, ...]``, as far as it got."""
    if every_step:
        return [journey.outcome.ys[:count, 0] for journey, count in zip(journeys, reached, strict=True)]
    return [torch.cat(journey.planned)[:, 0] for journey in journeys]


def _crossings(problem: RowProblem, journeys: Sequence[Journey]) -> Crossings:
    found = [(row, point) for row, journey in enumerate(journeys) for point in journey.crossings]
    return Crossings(
        np.array([row for row, _ in found], dtype=np.int64),
        np.array([point.event for _, point in found], dtype=np.int64),
        torch.stack([point.t for _, point in found]) if found else problem.ts.new_empty(0),
        torch.cat([point.y for _, point in found]) if found else problem.y0.new_empty((0, *problem.y0.shape[1:])),
    )


def _filled(states: Tensor, length: int) -> Tensor:
    """``[length, ...]``, NaN where a row did not get to."""
    missing = states.new_full((), torch.nan).expand(length - len(states), *states.shape[1:])
    return torch.cat([states, missing]) if len(missing) else states


def _pieces(rows: list[Problem], outcomes: list[Outcome]) -> Apart | None:
    """What the rows' recorders kept; None if one of them that took a step has nothing."""
    kept: list[DenseOutput | None] = []
    for row, outcome in zip(rows, outcomes, strict=True):
        recorder = row.course.recorder
        steps: tuple[Kept, ...] = () if recorder is None else tuple(recorder.steps)
        if recorder is None or len(steps) != outcome.stats.accepted:
            return None
        kept.append(DenseOutput(steps, row.layout) if steps else None)
    return Apart(kept)


def _row(problem: RowProblem, row: int) -> Problem:
    dynamics, one = problem.dynamics, slice(row, row + 1)
    rows = Selection(np.array([row]), problem.y0.device)
    layout, y0 = problem.layout.with_rows(1), problem.y0[one]
    times = tuple(problem.times[row].tolist())
    told = _Told(dynamics.f, (1, *dynamics.known.column))
    field = Field(told, dynamics.args_of(rows), layout, y0, (times[0], times[-1]))
    given, recorder = problem.course, problem.course.recorder
    course = Course(
        stops=given.stops.alone(times[0], times[-1]),
        watches=tuple(WatchOfOne(w.event, layout, w.args, w, rows) for w in problem.watches),
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
