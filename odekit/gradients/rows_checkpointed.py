"""The exact gradient of a solve by rows: every iteration is taken again, with the rows whose steps counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
import optree
import torch
from torch import Tensor

from odekit.core.protocols import ODESolver, StepControl
from odekit.core.rows.answer import RowOutcome
from odekit.core.rows.clock import RowClock
from odekit.core.rows.field import RowDynamics, RowField
from odekit.core.rows.loop import RowsAccepted
from odekit.core.rows.outputs import Slots, at_rest, states_in
from odekit.core.rows.problem import RowProblem
from odekit.core.rows.selection import Selection, pick
from odekit.core.solution import Stats
from odekit.gradients.captured import Dependencies
from odekit.gradients.forwards import retraced_rows, unrecorded_rows
from odekit.gradients.products import added, flows, vjp
from odekit.gradients.tape import Tape, record

Path = tuple[Any, ...]
"""Where in a carry a tensor is."""
Keep = Callable[[RowsAccepted], None]


def solve(problem: RowProblem, solver: ODESolver, control: StepControl) -> RowOutcome:
    """Solve without a graph; ``backward()`` takes the accepted steps again, from the last iteration to the first."""
    if not torch.is_grad_enabled():
        return unrecorded_rows(problem, solver, control)
    tape = _Tape(problem, solver, control)
    ys, y1 = record(tape)
    return attrs.evolve(tape.outcomes.pop(), ys=ys, y1=y1)


@attrs.frozen(eq=False)
class _Kept:
    """The accepted steps of one iteration: of which rows, between which times, and from what they started.

    ``fresh`` are the rows whose carry came from ``init``; beyond ``bounds`` f is not asked.
    """

    rows: Selection
    fresh: np.ndarray
    bounds: tuple[np.ndarray, np.ndarray]
    t0: np.ndarray
    t1: np.ndarray
    y0: Tensor
    carry: Any
    slots: Slots | None


class _Tape(Tape):
    """The accepted steps of all iterations."""

    method = "checkpointed"

    def __init__(self, problem: RowProblem, solver: ODESolver, control: StepControl) -> None:
        self.dependencies = Dependencies(problem.start)
        self.problem = problem.sparing() if self.dependencies.needed else problem
        self.y0, self.ts = problem.y0, problem.ts
        self.solver = solver
        self.control = control
        self.kept: list[_Kept] = []
        self.outcomes: list[RowOutcome] = []
        self.reached = self.broken = np.zeros(0)
        self.costs = Stats()

    def solve(self) -> tuple[Tensor, Tensor]:
        keep = self.keep if self.dependencies.needed else None
        outcome = unrecorded_rows(self.problem, self.solver, self.control, self.dependencies.f0, keep)
        self.outcomes.append(outcome)
        self.costs = outcome.stats.costs[0]
        self.reached, self.broken = outcome.reached, outcome.broken
        return outcome.ys, outcome.y1

    def pull(
        self, outputs: Sequence[Tensor], grad_ys: Tensor, grad_y1: Tensor, time_gradient: bool
    ) -> list[Tensor | None]:
        return _replay_backwards(self, grad_ys, grad_y1, time_gradient)

    def retrace(self, y0: Tensor, ts: Tensor, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        return retraced_rows(self.problem, self.dependencies, self.solver, self.control, self.costs, y0, ts, inputs)

    def keep(self, taken: RowsAccepted) -> None:
        """Keep the rows of an iteration that were accepted."""
        rows = taken.field.rows
        moving = (taken.fresh, taken.field.bounds, taken.t0, taken.t1, taken.y0, taken.carry)
        slots = taken.slots
        if not taken.accepted.all():
            positions = Selection(np.flatnonzero(taken.accepted), taken.y0.device)
            rows, moving = rows.among(positions), pick(moving, positions)
            slots = None if slots is None else slots.on(positions.index)
        self.kept.append(_Kept(rows, *moving, slots))


def _replay_backwards(tape: _Tape, grad_ys: Tensor, grad_y1: Tensor, time_gradient: bool) -> list[Tensor | None]:
    """The gradients with respect to y0, the times and the tensors that f depends on."""
    problem, dependencies = tape.problem, tape.dependencies
    inputs = dependencies.inputs()
    dynamics: RowDynamics = dependencies.field(problem.start, inputs)
    ts = problem.ts.detach().requires_grad_() if time_gradient else None
    with torch.enable_grad():
        clock = problem.clock_of(ts)
    if ts is not None:
        inputs = [ts, *inputs]
    sums: list[Tensor | None] = [None] * len(inputs)
    adjoint, grad_ys = _arriving(tape, grad_ys, grad_y1)
    carried: dict[Path, Tensor] = {}

    def pull(outputs: list[Tensor], arriving: list[Tensor | None], starts: list[Tensor]) -> list[Tensor | None]:
        """Add to the sums; what is left are the gradients with respect to the starts."""
        dependencies.check_none_missed(outputs, [*starts, *inputs], "checkpointed")
        grads = vjp(outputs, arriving, [*starts, *inputs])
        sums[:] = [added(total, grad) for total, grad in zip(sums, grads[len(starts) :], strict=True)]
        return grads[: len(starts)]

    for kept in reversed(tape.kept):
        rows = kept.rows
        slots = None if kept.slots is None else kept.slots.seen_by(clock)
        with torch.enable_grad():
            field = dynamics.on(rows).within(kept.bounds)
        solver = tape.solver.prepared(problem.tolerance.on(rows))
        replayed = _replay(field, solver, clock, kept, slots)
        handed_on = {path: x for path, x in replayed.carry.items() if path in carried}
        outputs = [replayed.y1, *handed_on.values(), *(states for states, _, _ in replayed.states)]
        arriving: list[Tensor | None] = [pick(adjoint, rows), *(pick(carried[path], rows) for path in handed_on)]
        for _, positions, k in replayed.states:
            place = Selection(rows.index[positions] * grad_ys.shape[1] + k, adjoint.device)
            arriving.append(pick(grad_ys.flatten(0, 1), place))
        grads = pull(outputs, arriving, [replayed.y0, *replayed.starts.values()])
        adjoint = _into(adjoint, rows, grads[0])
        carried = {path: _into(x, rows, None) for path, x in carried.items()}
        for (path, x), grad in zip(replayed.starts.items(), grads[1:], strict=True):
            if grad is not None:
                whole = carried.get(path, x.new_zeros(len(problem.y0), *x.shape[1:]))
                carried[path] = _into(whole.detach(), rows, grad)
        if carried and kept.fresh.any():
            begun = Selection(np.flatnonzero(kept.fresh), adjoint.device)
            adjoint = _through_init(tape, dynamics, clock, adjoint, carried, kept, begun, pull)
            carried = {path: _into(x, rows.among(begun), None) for path, x in carried.items()}
    still = Selection(np.flatnonzero(problem.times[:, 0] == problem.times[:, -1]), adjoint.device)
    if len(still):
        with torch.enable_grad():
            y0 = pick(problem.y0.detach(), still).requires_grad_()
            states = at_rest(dynamics.on(still), y0, clock)
        seeds = [torch.zeros_like(state) for state in states]
        if not problem.course.every_step:
            seeds = [pick(grad_ys[:, k], still) for k in range(1, problem.times.shape[1])]
        if states:
            seeds[-1] = seeds[-1] + pick(adjoint, still)
            adjoint = _into(adjoint, still, pull(states, list(seeds), [y0])[0])
    tape.costs.nfe_backward += dynamics.nfe
    tape.costs.steps_backward += len(tape.kept)
    return [adjoint + grad_ys[:, 0], *([] if time_gradient else [None]), *sums]


def _arriving(tape: _Tape, grad_ys: Tensor, grad_y1: Tensor) -> tuple[Tensor, Tensor]:
    """The cotangents of the states at the ends of the rows, and of the outputs that were reached.

    The end of a row that broke is one of its outputs.
    """
    if not tape.broken.any():
        return grad_y1, grad_ys
    broken = np.flatnonzero(tape.broken)
    grad_ys, grad_y1 = grad_ys.clone(), grad_y1.clone()
    for row in broken:
        last = int(tape.reached[row]) - 1
        grad_ys[row, last + 1 :] = 0
        grad_ys[row, last] += grad_y1[row]
        grad_y1[row] = 0
    return grad_y1, grad_ys


def _into(whole: Tensor, rows: Selection, part: Tensor | None) -> Tensor:
    return whole.index_copy(0, rows.tensor, whole.new_zeros(len(rows), *whole.shape[1:]) if part is None else part)


@attrs.frozen(eq=False)
class _Replayed:
    """The steps of one iteration taken again with gradients.

    Attributes:
        y0, starts: the leaves that they started from: the states, and the tensors of the carry, by where they are in
            it, if it is not computed anew.
        y1, carry: what came out: the states, the tensors handed to the next steps.
        states: the states at output times, in pieces with the positions of the rows and the output's numbers.
    """

    y0: Tensor
    starts: dict[Path, Tensor]
    y1: Tensor
    carry: dict[Path, Tensor]
    states: list[tuple[Tensor, np.ndarray, np.ndarray]]


def _replay(field: RowField, solver: ODESolver, clock: RowClock, kept: _Kept, slots: Slots | None) -> _Replayed:
    with torch.enable_grad():
        t0, t1 = clock(kept.t0, kept.rows), clock(kept.t1, kept.rows)
        y0 = kept.y0.detach().requires_grad_()
        starts: dict[Path, Tensor] = {}
        if solver.memoryless:
            carry = solver.init(field, t0, y0)
        else:
            carry = optree.tree_map(
                lambda leaf: leaf.detach().requires_grad_() if flows(leaf) else leaf, kept.carry, none_is_leaf=True
            )
            starts = _flowing(carry)
        inside = slots is not None and slots.inside.any()
        take = solver.advance if solver.memoryless and not inside else solver.step
        taken = take(field, t0, t1, y0, carry)
        states: list[tuple[Tensor, np.ndarray, np.ndarray]] = []
        if slots is not None:
            taken, states = states_in(field, solver, taken, kept.t0, kept.t1, clock, slots)
        return _Replayed(y0, starts, taken.y1, {} if solver.memoryless else _flowing(taken.carry), states)


def _flowing(carry: Any) -> dict[Path, Tensor]:
    """The tensors of a carry through which gradients can flow, by where they are in it."""
    paths, leaves, _ = optree.tree_flatten_with_path(carry, none_is_leaf=True)
    return {path: leaf for path, leaf in zip(paths, leaves, strict=True) if flows(leaf)}


def _through_init(
    tape: _Tape, dynamics: RowDynamics, clock: RowClock, adjoint: Tensor, carried: dict[Path, Tensor], kept: _Kept,
    begun: Selection, pull: Any,
) -> Tensor:  # fmt: skip
    """The cotangents at the starts of steps, with what comes through the carry that was made there.

    ``begun`` are the positions of the rows, among those of the step, to which that happened.
    """
    rows = kept.rows.among(begun)
    solver = tape.solver.prepared(tape.problem.tolerance.on(rows))
    with torch.enable_grad():
        field = dynamics.on(rows).within(pick(kept.bounds, begun))
        y0 = pick(kept.y0.detach(), begun).requires_grad_()
        t0 = clock(kept.t0[begun.index], rows)
        made = _flowing(solver.init(field, t0, y0, field(t0, y0)))
    wanted = [path for path in made if path in carried]
    grads = pull([made[path] for path in wanted], [pick(carried[path], rows) for path in wanted], [y0])
    return adjoint if grads[0] is None else adjoint.index_add(0, rows.tensor, grads[0])
