"""A solve by rows, from the checked problem to the answer."""

from __future__ import annotations

from typing import Any

import attrs
import optree
import torch
from torch import Tensor

from odekit.core.problem import Problem
from odekit.core.protocols import GradientMethod, ODESolver, StepControl
from odekit.core.report import Save
from odekit.core.rows.answer import RowOutcome
from odekit.core.rows.dense import RowDense
from odekit.core.rows.legs import travel_rows
from odekit.core.rows.one_by_one import solve_one_by_one
from odekit.core.rows.points import Points
from odekit.core.rows.problem import RowProblem, pose_rows
from odekit.core.rows.stops import RowStops
from odekit.core.solution import EventLog, Solution
from odekit.errors import SolveError

_NAMED = 3
"""How many of the rows that failed an error names."""


def solve_rows(
    problem: Problem, t: Any, gradient: GradientMethod, solver: ODESolver, control: StepControl, throw: bool,
    stops: RowStops, saved: Save | None,
) -> Solution:  # fmt: skip
    """Solve every row on its own steps: all rows at once where the solver can, one after the other where it cannot.

    Args:
        problem: with everything but the times checked.
        t: the caller's times, ``[T]`` or ``[B, T]``.
        stops: times at which steps must end.
        saved: what is kept of every output.

    Raises:
        SolveError: a row failed and ``throw`` is set; the error's ``solution`` has all rows.
    """
    rows = pose_rows(problem, t, stops)
    watches = rows.course.watches
    gradient, why = gradient.chosen(rows, solver, control)
    if solver.rowwise and watches:
        outcome = travel_rows(rows, gradient, solver, control)
    elif solver.rowwise:
        outcome = gradient.solve_rows(rows, solver, control)
    else:
        outcome = solve_one_by_one(rows, gradient, solver, control)
    unpack, journey = rows.layout.unpack, outcome.journey
    ts, ys = _outputs(outcome, rows, problem.ts, saved)
    events: tuple[EventLog, ...] = ()
    event: tuple[int | None, ...] | None = None
    if watches and journey is not None:
        events = tuple(_log(journey.crossings, k, rows) for k in range(len(watches)))
        event = tuple(None if number < 0 else number for number in journey.ended.tolist())
    solution = Solution(
        ts=ts,
        ys=ys,
        status=outcome.statuses,
        stats=attrs.evolve(outcome.stats, gradient=gradient.name, why=why),
        t1=torch.tensor(outcome.t1.tolist(), dtype=rows.ts.dtype),
        y1=unpack(outcome.y1),
        dense=_dense(outcome, rows),
        events=events,
        event=event,
    )
    if throw and not outcome.statuses.ok:
        raise SolveError(_complaint(outcome, rows, solver), outcome.statuses, solution)
    return solution


def _log(crossings: Points, event: int, rows: RowProblem) -> EventLog:
    ts, ys = crossings.only(crossings.event == event).by_row(len(rows.y0))
    return EventLog(ts.to(rows.ts), rows.layout.unpack(ys))


def _outputs(outcome: RowOutcome, rows: RowProblem, shared: Tensor, saved: Save | None) -> tuple[Tensor, Any]:
    """The output times and what is kept of the states there, the rows first where they have times of their own."""
    ts, packed, unpack, own = rows.ts, outcome.ys, rows.layout.unpack, rows.own
    if rows.course.every_step:
        own, (ts, packed) = True, _steps(outcome, rows)
    elif not own:
        ts, packed = shared, packed.transpose(0, 1)
    if saved is None:
        return ts, unpack(packed)
    times = (ts.T if own else ts).to(packed.real.dtype)
    states = packed.transpose(0, 1) if own else packed
    kept = [saved(t, unpack(y)) for t, y in zip(times, states, strict=True)]
    return ts, optree.tree_map(lambda *leaves: _stacked(leaves, own), *kept)


def _stacked(leaves: tuple[Any, ...], own: bool) -> Tensor:
    tensors = [torch.as_tensor(leaf) for leaf in leaves]
    return torch.stack(tensors, 1 if own and tensors[0].ndim else 0)


def _steps(outcome: RowOutcome, rows: RowProblem) -> tuple[Tensor, Tensor]:
    """The times and states of all accepted steps, by row."""
    if outcome.journey is not None and outcome.journey.steps is not None:
        ts, ys = outcome.journey.steps.by_row(len(rows.y0))
        return ts.to(rows.ts), ys
    clock = rows.clock
    if clock.differentiable:
        return clock.along(outcome.times).to(rows.ts), outcome.ys
    return torch.tensor(outcome.times.tolist(), dtype=rows.ts.dtype, device=rows.ts.device), outcome.ys


def _dense(outcome: RowOutcome, rows: RowProblem) -> RowDense | None:
    if outcome.pieces is None:
        return None
    detached = outcome.ys.requires_grad and outcome.pieces.detached
    return RowDense(outcome.pieces, rows.times[:, 0], outcome.t1, rows.y0, rows.dynamics, rows.layout, detached)


def _complaint(outcome: RowOutcome, rows: RowProblem, solver: ODESolver) -> str:
    statuses = outcome.statuses
    failed, stats = statuses.failed, outcome.stats
    finite = rows.y0.detach().isfinite().reshape(len(rows.y0), -1).all(1).tolist()
    named = "; ".join(
        f"row {row} at t = {outcome.t1[row]:.6g}: {statuses[row]}"
        + ("" if finite[row] else " (y0 itself holds NaN or infinite values)")
        for row in failed[:_NAMED]
    )
    more = f"; and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
    return (
        f"solver {solver.name!r} stopped in {len(failed)} of {len(statuses)} rows: {named}{more}. "
        f"({stats.nfe} evaluations of f.) {statuses.hint} throw=False returns what was reached, other rows complete."
    )
