"""Events of rows, in legs: rows go on where an event has changed their states, until they end.

A leg is solved twice where gradients are wanted. The first time nothing is differentiated, and events are looked for.
The second time the gradient method solves the same steps, and the times of the events are output times like others.
What the event's own time contributes is added to that by the implicit function theorem.
"""

from __future__ import annotations

import math

import attrs
import numpy as np
import torch
from torch import Tensor

from odekit.core.protocols import GradientMethod, ODESolver, StepControl
from odekit.core.rows.answer import RowOutcome, RowStats, RowStatus
from odekit.core.rows.clock import RowClock
from odekit.core.rows.loop import integrate_rows
from odekit.core.rows.monitor import RowHits, RowMonitor
from odekit.core.rows.problem import RowProblem
from odekit.core.rows.selection import Selection, pick
from odekit.core.rows.watch import Crossings, located_rows
from odekit.core.solution import Stats, Status


@attrs.frozen(eq=False)
class _Leg:
    """The rows between two events.

    Attributes:
        problem: of all rows; those that do not take part have a span of nothing.
        planned: ``[B]``, which of the caller's output times the second one of the leg is.
        fired: ``[B]``, the event that has just happened where a row starts, -1 for none.
        left: ``[B]``, attempted steps that each row may still take.
    """

    problem: RowProblem
    planned: np.ndarray
    fired: np.ndarray
    left: np.ndarray


@attrs.frozen(eq=False)
class _Solved:
    """What a leg brought.

    Attributes:
        first: of the search for events.
        ended: ``[B]``, the event that stopped each row, -1 for none.
        ys: ``[B, L, ...]``, the states at the output times of the leg.
        y1: ``[B, ...]``, the last states.
        crossings: what happened, with gradients.
        costs: of both solves.
    """

    first: RowOutcome
    ended: np.ndarray
    ys: Tensor
    y1: Tensor
    crossings: Crossings
    costs: tuple[Stats, ...]


def travel_rows(problem: RowProblem, gradient: GradientMethod, solver: ODESolver, control: StepControl) -> RowOutcome:
    """Solve all rows, with their events, leg after leg."""
    count, length = problem.times.shape
    device = problem.y0.device
    numbers = np.arange(length)
    going = np.ones(count, dtype=bool)
    steps = np.zeros((3, count), dtype=np.int64)
    statuses = np.full(count, Status.SUCCESS, dtype=object)
    t1, sizes, ended = problem.times[:, 0].copy(), np.zeros(count), np.full(count, -1)
    ys, y1 = torch.full_like(problem.y0, math.nan)[:, None].expand(count, length, *problem.y0.shape[1:]), problem.y0
    reached = np.zeros(count, dtype=np.int64)
    broken = np.zeros(count, dtype=bool)
    costs: list[Stats] = [Stats(nfe=problem.dynamics.nfe, jacobians=problem.dynamics.jacobians)]
    happened: list[Crossings] = []
    nobody, all_of_them = np.full(count, -1), np.full(count, problem.max_steps)
    leg = _Leg(problem, np.ones(count, dtype=np.int64), nobody, all_of_them)
    while True:
        solved = _solve(leg, gradient, solver, control)
        first, crossings = solved.first, solved.crossings
        happened.append(crossings)
        costs += solved.costs
        steps += np.stack([x.numpy() for x in (first.stats.steps, first.stats.accepted, first.stats.rejected)]) * going
        column = numbers - leg.planned[:, None] + 1
        taken = going[:, None] & (column >= np.where(leg.fired < 0, 0, 1)[:, None]) & (column < first.reached[:, None])
        ys = torch.where(_mask(taken, ys), _columns(solved.ys, np.where(taken, column, 0)), ys)
        y1 = torch.where(_mask(going, y1), solved.y1, y1)
        reached = np.where(going, leg.planned + first.reached - 1, reached)
        t1, sizes = np.where(going, first.t1, t1), np.where(going, first.sizes, sizes)
        statuses = np.where(going, np.array(first.statuses.rows, dtype=object), statuses)
        broken |= going & first.broken
        jumping = (
            going & (solved.ended >= 0) & np.array([not watch.event.ends for watch in problem.watches])[solved.ended]
        )
        ended = np.where(going & ~jumping, solved.ended, ended)
        if not jumping.any():
            break
        start = torch.zeros(count, dtype=torch.float64 if device.type != "mps" else None, device=device)
        for k in np.unique(solved.ended[jumping]):
            rows = Selection(np.flatnonzero(jumping & (solved.ended == k)), device)
            at = Selection(_last_of(crossings, rows.index), device)
            t, y = pick((crossings.t, crossings.y), at)
            told = t.to(y.real.dtype).reshape(-1, *(1,) * (y.ndim - 1))
            y1 = y1.index_copy(0, rows.tensor, problem.watches[k].jumped(told, y, rows))
            start = start.index_copy(0, rows.tensor, t.to(start))
        going = jumping & (reached < length)
        statuses[jumping & ~going] = Status.SUCCESS
        if not going.any():
            break
        leg = _rest(problem, going, t1, start, y1, reached, solved.ended, problem.max_steps - steps[0])
    attempted, accepted, rejected = (torch.from_numpy(x) for x in steps)
    stats = RowStats(attempted, accepted, rejected, tuple(costs))
    every = Crossings(
        np.concatenate([some.row for some in happened]),
        np.concatenate([some.event for some in happened]),
        torch.cat([some.t for some in happened]),
        torch.cat([some.y for some in happened]),
    )
    return RowOutcome(
        ys, t1, y1, RowStatus(tuple(statuses)), stats, sizes, reached, broken, problem.times, None, every, ended
    )


def _last_of(crossings: Crossings, rows: np.ndarray) -> np.ndarray:
    """Where the last crossing of each of these rows is."""
    last = np.full(int(rows.max()) + 1, -1)
    within = crossings.row <= rows.max()
    last[crossings.row[within]] = np.flatnonzero(within)
    return last[rows]


def _rest(
    problem: RowProblem,
    going: np.ndarray,
    t: np.ndarray,
    start: Tensor,
    y: Tensor,
    reached: np.ndarray,
    fired: np.ndarray,
    left: np.ndarray,
) -> _Leg:
    """What is left to be solved after events; rows that do not go on rest at their own start."""
    length = problem.times.shape[1]
    longest = length - int(reached[going].min())
    number = np.minimum(reached[:, None] + np.arange(longest), length - 1)
    number = np.where(going[:, None], number, 0)
    begin = np.where(going, t, problem.times[:, 0])[:, None]
    times = np.concatenate([begin, np.take_along_axis(problem.times, number, 1)], axis=1)
    ts = torch.from_numpy(times).to(start)
    moves, moved = start.requires_grad, problem.ts.requires_grad
    if moves or moved:
        later = problem.ts.to(start).gather(1, torch.from_numpy(number).to(start.device))
        both = torch.cat([(start - start.detach())[:, None] + ts[:, :1], later], dim=1)
        ts = torch.where(torch.from_numpy(going).to(start.device)[:, None], both, ts)
    y0 = torch.where(_mask(going, y), y, problem.y0.detach())
    leg = attrs.evolve(problem, y0=y0, times=times, ts=ts)
    return _Leg(leg, reached, np.where(going, fired, -1), left)


def _solve(leg: _Leg, gradient: GradientMethod, solver: ODESolver, control: StepControl) -> _Solved:
    problem = attrs.evolve(leg.problem, dynamics=leg.problem.dynamics.fork())
    monitor = RowMonitor(problem.watches, leg.fired)
    with torch.no_grad():
        clock = RowClock(problem.times, None, problem.y0)
        first = integrate_rows(
            problem.dynamics, problem.y0, clock, solver, control, problem.tolerance, leg.left, monitor=monitor
        )
    hits = monitor.found
    if hits is None:
        empty = problem.y0[:0].detach()
        hits = RowHits(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0), empty, empty)
    if not torch.is_grad_enabled():
        crossings = Crossings(hits.row, hits.event, _like(hits.t, problem.ts), hits.y)
        return _Solved(first, monitor.ended, first.ys, first.y1, crossings, first.stats.costs)
    again, place = _with_hits(problem, first, monitor, hits)
    second = gradient.solve_rows(again, solver, control)
    length = problem.times.shape[1]
    ys = _columns(second.ys, place[:, :length])
    at = hits.row * second.ys.shape[1] + place[hits.row, length + hits.rank]
    y = second.ys.flatten(0, 1).index_select(0, Selection(at, ys.device).tensor)
    crossings = _located(problem, hits, y)
    y1, ended = second.y1, monitor.ended
    lost = np.array([not status.ok for status in second.statuses], dtype=bool)
    if lost.any():  # in steps that differ by rounding from those of the search
        ended = np.where(lost, -1, ended)
        pairs = zip(lost, first.statuses, second.statuses, strict=True)
        statuses = RowStatus(tuple(after if failed else before for failed, before, after in pairs))
        first = attrs.evolve(first, statuses=statuses, t1=np.where(lost, second.t1, first.t1))
    stopped = np.flatnonzero(ended >= 0)
    if len(stopped):
        rows, last = Selection(stopped, ys.device), Selection(_last_of(crossings, stopped), ys.device)
        y1 = y1.index_copy(0, rows.tensor, pick(crossings.y, last))
    return _Solved(first, ended, ys, y1, crossings, (*first.stats.costs, *second.stats.costs))


def _with_hits(
    problem: RowProblem, first: RowOutcome, monitor: RowMonitor, hits: RowHits
) -> tuple[RowProblem, np.ndarray]:
    """The same problem as far as its steps went, without events, and with their times among its output times.

    Returns:
        The problem, and which of its output times are the old ones and those of the events, ``[B, L + K]``.
    """
    times, ts = problem.times, problem.ts
    count, length = times.shape
    whole = np.array([status is Status.SUCCESS for status in first.statuses], dtype=bool)
    until = np.where(whole, times[:, -1], np.where(monitor.ended >= 0, monitor.last, first.t1))[:, None]
    came = np.arange(length) < first.reached[:, None]
    rank = hits.rank
    found = np.full((count, int(rank.max(initial=-1)) + 1), np.nan)
    found[hits.row, rank] = hits.t
    among = np.isnan(found)
    every = np.concatenate([np.where(came, times, until), np.where(among, until, found), until], axis=1)
    order = np.argsort(every * np.where(until < times[:, :1], -1.0, 1.0), axis=1, kind="stable")
    place = np.argsort(order, axis=1)
    place[whole, length - 1] = every.shape[1] - 1  # of equal times the last one is the end of the last step
    hosts = np.take_along_axis(every, order, 1)
    if ts.requires_grad:
        wide = ts if ts.device.type == "mps" else ts.double()
        end = torch.where(_on(whole, wide)[:, None], wide[:, -1:], _like(until, wide))
        marks = torch.where(_on(among, wide), end, _like(np.nan_to_num(found), wide))
        joined = torch.cat([torch.where(_on(came, wide), wide, end), marks, end], dim=1)
        ts = joined.gather(1, _on(order, wide))
    else:
        ts = torch.from_numpy(hosts).to(ts.device, ts.dtype if ts.device.type == "mps" else None)
    again = attrs.evolve(problem, dynamics=problem.dynamics.fork(), times=hosts, ts=ts, watches=())
    return again, place


def _located(problem: RowProblem, hits: RowHits, y: Tensor) -> Crossings:
    """The crossings with gradients; of a row one at a time, for an event function sees every row once."""
    t = _like(hits.t, problem.ts)
    for k, watch in enumerate(problem.watches):
        mine = np.where(hits.event == k, hits.rank, -1)
        for rank in np.unique(mine[mine >= 0]):
            chosen = Selection(np.flatnonzero(mine == rank), y.device)
            rows = Selection(hits.row[chosen.index], y.device)
            t_at, y_at, slope = pick((t, y, hits.slope), chosen)
            t_at, y_at = located_rows(watch, t_at, y_at, slope, rows)
            t, y = t.index_copy(0, chosen.tensor, t_at), y.index_copy(0, chosen.tensor, y_at)
    return Crossings(hits.row, hits.event, t, y)


def _columns(states: Tensor, columns: np.ndarray) -> Tensor:
    """``[B, T, ...]`` from ``[B, L, ...]``, for every row the columns ``[B, T]``."""
    count, length = states.shape[:2]
    at = (np.arange(count)[:, None] * length + columns).reshape(-1)
    picked = states.flatten(0, 1).index_select(0, Selection(at, states.device).tensor)
    return picked.reshape(*columns.shape, *states.shape[2:])


def _mask(mask: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(mask).to(like.device).reshape(*mask.shape, *(1,) * (like.ndim - mask.ndim))


def _on(array: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(array).to(like.device)


def _like(hosts: np.ndarray, ts: Tensor) -> Tensor:
    """Host times beside ``ts``, to the last digit where the device can."""
    return torch.from_numpy(hosts).to(ts.device, ts.dtype if ts.device.type == "mps" else torch.float64)
