"""Events of rows, in legs: rows go on where an event has changed their states, until they end.

Every leg is a solve of all rows for the gradient method; those that do not go on rest. A row that follows an event
begins at the event's time, which can be differentiated like any other initial time.
"""

from __future__ import annotations

import math

import attrs
import numpy as np
import torch
from torch import Tensor

from odekit.core.protocols import GradientMethod, ODESolver, StepControl
from odekit.core.rows.answer import RowJourney, RowOutcome, RowStats, RowStatus
from odekit.core.rows.points import Points
from odekit.core.rows.problem import RowProblem
from odekit.core.rows.selection import Selection, choose, pick
from odekit.core.rows.watch import RowWatch, located_rows
from odekit.core.solution import Stats, Status


@attrs.frozen(eq=False)
class _Leg:
    """The rows between two events.

    Attributes:
        problem: of all rows; those that do not take part have a span of nothing.
        going: ``[B]``, which take part.
        first: whether it is the first leg, whose first time is the caller's.
        planned: ``[B]``, which of the caller's output times the second one of the leg is.
    """

    problem: RowProblem
    going: np.ndarray
    first: bool
    planned: np.ndarray


@attrs.frozen(eq=False)
class _Solved:
    """What a leg brought.

    Attributes:
        outcome: of the gradient method.
        crossings: what happened, with gradients.
        steps: the starts and the ends of the steps, the events that stopped rows among them.
        stopped: ``[B]``, the event that stopped each row, -1 for none.
        y1: ``[B, ...]``, the last states.
    """

    outcome: RowOutcome
    crossings: Points
    steps: Points | None
    stopped: np.ndarray
    y1: Tensor


def travel_rows(problem: RowProblem, gradient: GradientMethod, solver: ODESolver, control: StepControl) -> RowOutcome:
    """Solve all rows, with their events, leg after leg."""
    count, length = problem.times.shape
    watches, hooks, every_step = problem.course.watches, problem.course.hooks, problem.course.every_step
    going = np.ones(count, dtype=bool)
    steps = np.zeros((3, count), dtype=np.int64)
    statuses = np.full(count, Status.SUCCESS, dtype=object)
    t1, sizes, ended = problem.times[:, 0].copy(), np.zeros(count), np.full(count, -1)
    ys, y1 = torch.full_like(problem.y0, math.nan)[:, None].expand(count, length, *problem.y0.shape[1:]), problem.y0
    reached, broken = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=bool)
    costs: list[Stats] = [Stats(nfe=problem.dynamics.nfe, jacobians=problem.dynamics.jacobians)]
    crossings: list[Points] = []
    points: list[Points] = []
    kept = True
    leg = _Leg(problem, going, True, np.ones(count, dtype=np.int64))
    while True:
        outcome = _forked(leg.problem, gradient, solver, control)
        if outcome.journey is not None:  # it has gone through all of them
            return outcome
        solved = _solved(leg, outcome)
        stats = outcome.stats
        crossings.append(solved.crossings)
        points += [] if solved.steps is None else [solved.steps]
        costs += stats.costs
        kept = kept and outcome.pieces is not None
        steps += np.stack([x.numpy() for x in (stats.steps, stats.accepted, stats.rejected)]) * going
        ys, come = _planned(leg, outcome, ys)
        reached = np.where(going, come, reached)
        y1 = choose(going, solved.y1, y1)
        t1, sizes = np.where(going, outcome.t1, t1), np.where(going, outcome.sizes, sizes)
        statuses = np.where(going, np.array(outcome.statuses.rows, dtype=object), statuses)
        broken |= going & outcome.broken
        jumping = (solved.stopped >= 0) & np.array([not watch.event.ends for watch in watches])[solved.stopped]
        ended = np.where(going & ~jumping, solved.stopped, ended)
        if not jumping.any():
            break
        landed = _jumped(solved, np.flatnonzero(jumping), watches)
        y1 = y1.index_copy(0, Selection(landed.row, y1.device).tensor, landed.y)
        last = t1 == problem.times[:, -1] if every_step else reached == length
        going, done = jumping & ~last, jumping & last
        statuses[done] = Status.SUCCESS
        if every_step:
            points.append(landed.only(done[landed.row]))
        if not going.any():
            break
        starting = landed.only(going[landed.row])
        if hooks is not None:
            hooks.moved(Selection(starting.row, y1.device), t1[starting.row], starting.y)
        course = attrs.evolve(problem.course, fired=np.where(going, solved.stopped, -1), taken=steps[0].copy())
        leg = _rest(attrs.evolve(problem, course=course), going, t1, starting, y1, reached)
    attempted, accepted, rejected = (torch.from_numpy(x) for x in steps)
    return RowOutcome(
        ys, t1, y1, RowStatus(tuple(statuses)), RowStats(attempted, accepted, rejected, tuple(costs)), sizes, reached,
        broken, problem.times, np.tile(np.arange(length), (count, 1)), outcome.pieces if kept else None,
        journey=RowJourney(Points.joined(crossings), Points.joined(points) if every_step else None, ended),
    )  # fmt: skip


def _forked(problem: RowProblem, gradient: GradientMethod, solver: ODESolver, control: StepControl) -> RowOutcome:
    """The outcome of a leg, which counts its own calls of f."""
    return gradient.solve_rows(attrs.evolve(problem, dynamics=problem.dynamics.fork()), solver, control)


def _solved(leg: _Leg, outcome: RowOutcome) -> _Solved:
    problem = leg.problem
    happened, clock, every_step = outcome.happened, problem.clock, problem.course.every_step
    assert happened is not None
    like = problem.ts
    ts = torch.from_numpy(outcome.times).to(like.device, like.dtype if like.device.type == "mps" else torch.float64)
    ts = clock.along(outcome.times).to(ts) if clock.differentiable else ts
    crossings = _located(
        problem.course.watches, _points(outcome.ys, ts, happened.row, happened.column, happened.event), happened.slope
    )
    stopped, y1 = np.full(len(leg.going), -1), outcome.y1
    rows = np.flatnonzero(np.array([status is Status.EVENT for status in outcome.statuses]) & leg.going)
    ends = crossings.last_of(rows)
    stopped[rows] = ends.event
    y1 = y1.index_copy(0, Selection(rows, y1.device).tensor, ends.y)
    if not every_step:
        return _Solved(outcome, crossings, None, stopped, y1)
    wanted = leg.going[:, None] & (np.arange(outcome.times.shape[1]) < outcome.reached[:, None])
    row, column = np.nonzero(wanted & ~_marked(happened.row, happened.column, wanted.shape))
    steps = Points.joined([_points(outcome.ys, ts, row, column, np.full(len(row), -1)), ends])
    return _Solved(outcome, crossings, steps, stopped, y1)


def _marked(row: np.ndarray, column: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[row, column] = True
    return mask


def _points(ys: Tensor, ts: Tensor, row: np.ndarray, column: np.ndarray, event: np.ndarray) -> Points:
    """These of the outputs ``[B, S, ...]``."""
    place = row * ts.shape[1] + column
    t = ts.flatten().index_select(0, Selection(place, ts.device).tensor)
    return Points(row, event, t, ys.flatten(0, 1).index_select(0, Selection(place, ys.device).tensor))


def _located(watches: tuple[RowWatch, ...], found: Points, slopes: Tensor) -> Points:
    """The crossings with gradients; of a row one at a time, for an event function sees every row once."""
    t, y = found.t, found.y
    for k, watch in enumerate(watches):
        mine = np.flatnonzero(found.event == k)
        rank = np.arange(len(mine)) - np.searchsorted(found.row[mine], found.row[mine])
        for n in np.unique(rank):
            chosen = mine[rank == n]
            on, at = Selection(chosen, y.device), Selection(chosen, t.device)
            rows = Selection(found.row[chosen], y.device)
            y_at, slope = pick((y, slopes), on)
            t_at, y_at = located_rows(watch, pick(t, at), y_at, slope, rows)
            t, y = t.index_copy(0, at.tensor, t_at), y.index_copy(0, on.tensor, y_at)
    return attrs.evolve(found, t=t, y=y)


def _planned(leg: _Leg, outcome: RowOutcome, ys: Tensor) -> tuple[Tensor, np.ndarray]:
    """The states at the caller's output times with those of this leg, and how many of them rows have come to."""
    count, width = outcome.index.shape
    wanted = leg.going[:, None] & (np.arange(width) < outcome.reached[:, None]) & (outcome.index >= (not leg.first))
    row, column = np.nonzero(wanted)
    number = np.minimum(leg.planned[row] + outcome.index[row, column] - 1, ys.shape[1] - 1)  # the last one may repeat
    come = leg.planned.copy()
    np.maximum.at(come, row, number + 1)
    place = np.full((count, ys.shape[1]), -1)
    place[row, number] = row * width + column
    states = outcome.ys.flatten(0, 1).index_select(0, Selection(np.maximum(place, 0).reshape(-1), ys.device).tensor)
    taken = torch.from_numpy(place >= 0).to(ys.device).reshape(*place.shape, *(1,) * (ys.ndim - 2))
    return torch.where(taken, states.reshape(ys.shape), ys), come


def _jumped(solved: _Solved, rows: np.ndarray, watches: tuple[RowWatch, ...]) -> Points:
    """The events of these rows, with the states after them."""
    ends = solved.crossings.last_of(rows)
    y = ends.y
    for k in np.unique(ends.event):
        chosen = Selection(np.flatnonzero(ends.event == k), y.device)
        some = ends.only(ends.event == k)
        told = some.t.to(y.device, y.real.dtype).reshape(-1, *(1,) * (y.ndim - 1))
        y = y.index_copy(0, chosen.tensor, watches[k].jumped(told, some.y, Selection(some.row, y.device)))
    return attrs.evolve(ends, event=np.full_like(ends.event, -1), y=y)


def _rest(
    problem: RowProblem, going: np.ndarray, t: np.ndarray, starting: Points, y: Tensor, reached: np.ndarray
) -> _Leg:
    """What is left to be solved after events; rows that do not go on rest at their own start."""
    length = problem.times.shape[1]
    if problem.course.every_step:  # of the caller's times only the last ones count
        reached = np.full_like(reached, length - 1)
    longest = length - int(reached[going].min())
    number = np.minimum(reached[:, None] + np.arange(longest), length - 1)
    number = np.where(going[:, None], number, 0)
    begin = np.where(going, t, problem.times[:, 0])[:, None]
    times = np.concatenate([begin, np.take_along_axis(problem.times, number, 1)], axis=1)
    ts = torch.from_numpy(times).to(starting.t)
    if starting.t.requires_grad or problem.ts.requires_grad:
        at = Selection(starting.row, ts.device)
        moving = torch.zeros_like(ts[:, 0]).index_copy(0, at.tensor, starting.t - starting.t.detach())
        later = problem.ts.to(ts).gather(1, torch.from_numpy(number).to(ts.device))
        both = torch.cat([ts[:, :1] + moving[:, None], later], dim=1)
        ts = torch.where(torch.from_numpy(going).to(ts.device)[:, None], both, ts)
    return _Leg(
        attrs.evolve(problem, y0=choose(going, y, problem.y0.detach()), times=times, ts=ts), going, False, reached
    )
