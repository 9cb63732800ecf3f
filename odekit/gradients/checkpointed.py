"""The exact gradient from the accepted states alone: every step is taken again when its turn comes."""

from __future__ import annotations

from typing import Any

import attrs
import optree
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from odekit.core.field import Field
from odekit.core.first_only import first_only
from odekit.core.integrate import Accepted, integrate
from odekit.core.outputs import at_end, at_rest, states_in
from odekit.core.problem import Problem
from odekit.core.protocols import GradientMethod, ODESolver, Outcome, StepControl
from odekit.core.rows.answer import RowOutcome
from odekit.core.rows.problem import RowProblem
from odekit.core.solution import Stats
from odekit.core.times import Clock
from odekit.gradients import rows_checkpointed
from odekit.gradients.captured import Dependencies
from odekit.gradients.products import added, flows, vjp

_SECOND = "gradient='checkpointed' has no second derivatives; use gradient='direct'"


@attrs.frozen
class Checkpointed(GradientMethod):
    """Replays each accepted step, from the last to the first, and backpropagates through it alone.

    The gradient is that of the computed numbers: equal to ``direct`` to rounding, whatever the tolerance, because the
    replayed steps are the very same ones. Kept are the states at the accepted steps; rejected steps and the search for
    step sizes cost nothing. Zhuang et al. 2020, *Adaptive checkpoint adjoint*, Algorithm 2, with the steps themselves
    differentiated instead of a continuous adjoint between the checkpoints.

    f must give the same numbers when it is called again: randomness such as dropout has to be drawn before the solve
    and passed in through ``args``.
    """

    name = "checkpointed"
    exact = True
    memory = "steps × state + one step's activations"

    def solve(self, problem: Problem, solver: ODESolver, control: StepControl) -> Outcome:
        if not torch.is_grad_enabled():
            return _forward(problem, solver, control, None, None)
        dependencies = Dependencies(problem)
        if dependencies.needed:
            problem = problem.sparing()
        tape = _Tape(problem, solver, control, dependencies)
        inputs = (first_only(x, _SECOND) for x in (problem.y0, problem.ts, *dependencies.tensors))
        ys, y1 = _Replay.apply(tape, *inputs)
        return attrs.evolve(tape.outcomes.pop(), ys=ys, y1=y1)

    def solve_rows(self, problem: RowProblem, solver: ODESolver, control: StepControl) -> RowOutcome:
        return rows_checkpointed.solve(problem, solver, control)


def _forward(
    problem: Problem, solver: ODESolver, control: StepControl, f0: Tensor | None, kept: list[Accepted] | None
) -> Outcome:
    with torch.no_grad():
        return integrate(
            problem.field, problem.y0, Clock(problem.times), solver, control, problem.tolerance, problem.max_steps,
            f0=f0, on_accept=None if kept is None else kept.append, course=problem.course,
        )  # fmt: skip


class _Tape:
    """What lives between forward and backward.

    Attributes:
        steps: the accepted steps from the first to the one in which the answer ends.
        ends_inside: whether the answer ends at an output inside the last step, because what followed was not finite.
    """

    def __init__(self, problem: Problem, solver: ODESolver, control: StepControl, dependencies: Dependencies) -> None:
        self.problem = problem
        self.solver = solver
        self.control = control
        self.dependencies = dependencies
        self.steps: list[Accepted] = []
        self.ends_inside = False
        self.outcomes: list[Outcome] = []
        self.stats = Stats()

    def close(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.stats = outcome.stats
        reached = len(outcome.slots)
        if self.steps and self.steps[-1].t1 != outcome.t1:
            self.steps = [step for step in self.steps if step.first < reached]
        if self.steps and self.steps[-1].t1 != outcome.t1:
            last = self.steps[-1]
            self.steps[-1] = attrs.evolve(last, slots=last.slots[: reached - last.first])
            self.ends_inside = True


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tape: _Tape, y0: Tensor, ts: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        outcome = _forward(tape.problem, tape.solver, tape.control, tape.dependencies.f0, tape.steps)
        ctx.tape = tape
        ctx.save_for_backward(y0, ts, *tensors)
        tape.close(outcome)
        return outcome.ys, outcome.y1.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ys: Tensor, grad_y1: Tensor) -> tuple[Any, ...]:
        _ = ctx.saved_tensors  # raises if one was changed in place since: replays would not see what the solve saw
        return None, *_replay_backwards(ctx.tape, grad_ys, grad_y1, ctx.needs_input_grad[2])


def _replay_backwards(tape: _Tape, grad_ys: Tensor, grad_y1: Tensor, time_gradient: bool) -> list[Tensor | None]:
    """The gradients with respect to y0, the times and the tensors that f depends on."""
    problem, dependencies, steps = tape.problem, tape.dependencies, tape.steps
    inputs = dependencies.inputs()
    field = dependencies.field(problem, inputs)
    ts = problem.ts.detach().requires_grad_() if time_gradient else None
    with torch.enable_grad():
        clock = Clock(problem.times, ts)
    if ts is not None:
        inputs = [ts, *inputs]
    solver = tape.solver.prepared(problem.tolerance)
    sums: list[Tensor | None] = [None] * len(inputs)
    cotangents, adjoint = list(grad_ys), grad_y1
    if tape.ends_inside:
        end = steps[-1].first + len(steps[-1].slots) - 1
        cotangents[end], adjoint = cotangents[end] + grad_y1, torch.zeros_like(grad_y1)
    carried: dict[Any, Tensor | None] = {}
    for i in reversed(range(len(steps))):
        step = steps[i]
        replayed = _replay(field, solver, clock, step)
        dependencies.check_none_missed([replayed.y1, *replayed.states], [*replayed.inputs, *inputs], "checkpointed")
        outputs = [replayed.y1, *replayed.carry.values(), *replayed.states]
        arriving = [
            adjoint,
            *(carried.get(place) for place in replayed.carry),
            *cotangents[step.first : step.first + len(step.slots)],
        ]
        grads = vjp(outputs, arriving, [*replayed.inputs, *inputs])
        adjoint = torch.zeros_like(step.y0) if grads[0] is None else grads[0]
        carried = dict(zip(replayed.places, grads[1 : len(replayed.inputs)], strict=True))
        sums = [added(total, grad) for total, grad in zip(sums, grads[len(replayed.inputs) :], strict=True)]
    if problem.times[0] == problem.times[-1]:
        with torch.enable_grad():
            y0 = problem.y0.detach().requires_grad_()
            states = at_rest(field, y0, clock)
        grads = vjp([*states, states[-1]], [*cotangents, adjoint], [y0, *inputs])
        adjoint, sums = torch.zeros_like(grad_y1) if grads[0] is None else grads[0], grads[1:]
    else:
        adjoint = adjoint + cotangents[0]
    tape.stats.nfe_backward += field.nfe
    tape.stats.steps_backward += len(steps)
    return [adjoint, *sums] if time_gradient else [adjoint, None, *sums]


@attrs.frozen(eq=False)
class _Replayed:
    """A step taken again with gradients.

    Attributes:
        inputs: the leaves that it started from: y0, and the tensors of its carry where that is not computed anew.
        places: where in the carry those tensors are. A step may start from other ones than the step before handed on:
            what a rejected try left to it.
        y1, carry, states: what came out: the state, the tensors handed on by their places, the states at output times.
    """

    inputs: list[Tensor]
    places: list[Any]
    y1: Tensor
    carry: dict[Any, Tensor]
    states: list[Tensor]


def _replay(field: Field, solver: ODESolver, clock: Clock, step: Accepted) -> _Replayed:
    if step.section is not None:
        field = field.confined(step.section)
    with torch.enable_grad():
        t0, t1 = clock(step.t0), clock(step.t1)
        y0 = step.y0.detach().requires_grad_()
        inputs: list[Tensor] = [y0]
        places: list[Any] = []
        if solver.memoryless:
            carry = solver.init(field, t0, y0)
        elif step.fresh:
            carry = solver.init(field, t0, y0, field(t0, y0))
        else:
            paths, leaves, treespec = optree.tree_flatten_with_path(step.carry, none_is_leaf=True)
            leaves = [leaf.detach().requires_grad_() if flows(leaf) else leaf for leaf in leaves]
            inputs += [leaf for leaf in leaves if flows(leaf)]
            places = [path for path, leaf in zip(paths, leaves, strict=True) if flows(leaf)]
            carry = optree.tree_unflatten(treespec, leaves)
        inside = any(not at_end(clock, slot, step.t1) for slot in step.slots)
        if solver.memoryless and not inside:
            y1 = solver.replay(field, t0, t1, y0, carry)
            return _Replayed(inputs, places, y1, {}, [y1] * len(step.slots))
        taken = solver.step(field, t0, t1, y0, carry)
        taken, states = states_in(field, solver, taken, step.t1, clock, step.slots)
        handed_on: dict[Any, Tensor] = {}
        if not solver.memoryless:
            paths, leaves, _ = optree.tree_flatten_with_path(taken.carry, none_is_leaf=True)
            handed_on = {path: leaf for path, leaf in zip(paths, leaves, strict=True) if flows(leaf)}
        return _Replayed(inputs, places, taken.y1, handed_on, states)
