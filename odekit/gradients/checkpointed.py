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
from odekit.core.integrate import Accepted, at_end, at_rest, integrate, states_in
from odekit.core.problem import Problem
from odekit.core.protocols import GradientMethod, ODESolver, Outcome, StepControl
from odekit.core.solution import Stats
from odekit.core.times import Clock
from odekit.gradients.captured import Dependencies

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
        tape = _Tape(problem, solver, control, dependencies)
        inputs = (first_only(x, _SECOND) for x in (problem.y0, problem.ts, *dependencies.tensors))
        ys, y1 = _Replay.apply(tape, *inputs)
        return attrs.evolve(tape.outcomes.pop(), ys=ys, y1=y1)


def _forward(
    problem: Problem, solver: ODESolver, control: StepControl, f0: Tensor | None, kept: list[Accepted] | None
) -> Outcome:
    with torch.no_grad():
        return integrate(
            problem.field, problem.y0, Clock(problem.times), solver, control, problem.tolerance, problem.max_steps,
            f0=f0, on_accept=None if kept is None else kept.append,
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
        if self.steps and self.steps[-1].t1 != outcome.t1:
            times = self.problem.times
            reached = sum((t - outcome.t1) * (times[-1] - times[0]) <= 0 for t in times)
            self.steps = [step for step in self.steps if step.outputs.start < reached]
        if self.steps and self.steps[-1].t1 != outcome.t1:
            last = self.steps[-1]
            self.steps[-1] = attrs.evolve(last, outputs=range(last.outputs.start, reached))
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
        end = steps[-1].outputs[-1]
        cotangents[end], adjoint = cotangents[end] + grad_y1, torch.zeros_like(grad_y1)
    carried: list[Tensor | None] = []
    for i in reversed(range(len(steps))):
        step = steps[i]
        replayed = _replay(field, solver, clock, step, first=i == 0)
        dependencies.check_none_missed([replayed.y1, *replayed.states], [*replayed.inputs, *inputs], "checkpointed")
        outputs = [replayed.y1, *replayed.carry, *replayed.states]
        arriving = [adjoint, *(carried or [None] * len(replayed.carry)), *(cotangents[k] for k in step.outputs)]
        grads = _vjp(outputs, arriving, [*replayed.inputs, *inputs])
        adjoint = torch.zeros_like(step.y0) if grads[0] is None else grads[0]
        carried = grads[1 : len(replayed.inputs)]
        sums = [_added(total, grad) for total, grad in zip(sums, grads[len(replayed.inputs) :], strict=True)]
    if problem.times[0] == problem.times[-1]:
        with torch.enable_grad():
            y0 = problem.y0.detach().requires_grad_()
            states = at_rest(field, y0, clock)
        grads = _vjp([*states, states[-1]], [*cotangents, adjoint], [y0, *inputs])
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
        y1, carry, states: what came out: the state, the tensors handed to the next step, the states at output times.
    """

    inputs: list[Tensor]
    y1: Tensor
    carry: list[Tensor]
    states: list[Tensor]


def _replay(field: Field, solver: ODESolver, clock: Clock, step: Accepted, first: bool) -> _Replayed:
    with torch.enable_grad():
        t0, t1 = clock(step.t0), clock(step.t1)
        y0 = step.y0.detach().requires_grad_()
        inputs = [y0]
        if solver.memoryless:
            carry = solver.init(field, t0, y0)
        elif first:
            carry = solver.init(field, t0, y0, field(t0, y0))
        else:
            leaves, treespec = optree.tree_flatten(step.carry, none_is_leaf=True)
            leaves = [leaf.detach().requires_grad_() if _flows(leaf) else leaf for leaf in leaves]
            inputs += [leaf for leaf in leaves if _flows(leaf)]
            carry = optree.tree_unflatten(treespec, leaves)
        inside = any(not at_end(clock, k, step.t1) for k in step.outputs)
        if solver.memoryless and not inside:
            y1 = solver.replay(field, t0, t1, y0, carry)
            return _Replayed(inputs, y1, [], [y1] * len(step.outputs))
        taken = solver.step(field, t0, t1, y0, carry)
        taken, states = states_in(field, solver, taken, step.t1, clock, step.outputs)
        handed_on = [] if solver.memoryless else optree.tree_leaves(taken.carry, none_is_leaf=True)
        return _Replayed(inputs, taken.y1, [leaf for leaf in handed_on if _flows(leaf)], states)


def _added(total: Tensor | None, grad: Tensor | None) -> Tensor | None:
    if total is None or grad is None:
        return grad if total is None else total
    return total + grad


def _flows(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def _vjp(outputs: list[Tensor], cotangents: list[Tensor | None], inputs: list[Tensor]) -> list[Tensor | None]:
    """Σ cotangentᵀ ∂output/∂input for each input; None where there is no dependence.

    The graph is kept, because a captured tensor's own history is part of every step's graph.
    """
    pairs = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if c is not None and o.requires_grad]
    if not pairs:
        return [None] * len(inputs)
    roots, seeds = zip(*pairs, strict=True)
    return list(torch.autograd.grad(roots, inputs, seeds, allow_unused=True, retain_graph=True))
