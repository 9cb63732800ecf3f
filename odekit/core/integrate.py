"""The one integration loop. Everything that it calls is a protocol, and all that moves is in local variables."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor

from odekit.core.protocols import CountedField, ODESolver, Outcome, Step, StepControl, VectorField
from odekit.core.solution import Stats, Status
from odekit.core.times import Clock, coefficient
from odekit.core.tolerance import Tolerance


@attrs.frozen(eq=False)
class Accepted:
    """An accepted step as a gradient method may keep it: enough to take it again.

    Attributes:
        t0, t1: host times of its ends.
        y0: the state at its start.
        carry: what the solver was handed; None for a solver that is ``memoryless``.
        outputs: indices of the output times that fell into it, as ``range(first, stop)``.
    """

    t0: float
    t1: float
    y0: Tensor
    carry: Any
    outputs: range


def integrate(
    f: CountedField,
    y0: Tensor,
    clock: Clock,
    solver: ODESolver,
    control: StepControl,
    tolerance: Tolerance,
    max_steps: int,
    *,
    f0: Tensor | None = None,
    on_accept: Callable[[Accepted], None] | None = None,
) -> Outcome:
    """Integrate from ``clock.times[0]`` to ``clock.times[-1]`` and record the state at every time in between.

    Steps are those of the control, never cut by output times; the last one ends at the end of the span exactly.
    ``f0`` is ``f(t0, y0)`` where the caller has it already; ``on_accept`` is told of every accepted step.
    """
    times = clock.times
    t, t_end, y = times[0], times[-1], y0
    stats, outputs = Stats(), Outputs(clock, y0)
    status, why, size, rejected = Status.SUCCESS, Status.SUCCESS, 0.0, None
    if t == t_end:
        outputs.taken = at_rest(f, y0, clock)
        y = outputs.taken[-1]
    else:
        solver = solver.prepared(tolerance)
        proposal = control.start(f, t, t_end, y0, solver, tolerance, f0)
        status, t_next, judged = proposal.status, proposal.t_next, proposal.carry
        carry = solver.init(f, clock(t), y0, None if clock.differentiable else proposal.f0)
    while status.ok and t != t_end:
        t_next = _clip(t, t_next, t_end)
        too_short = t_next != t_end and abs(t_next - t) < _resolution(t, t_end - times[0])
        if too_short or t_next == rejected:  # the same step again would be rejected again
            status = Status.STEP_UNDERFLOW if why.ok else why
            break
        if stats.steps == max_steps:
            status = Status.MAX_STEPS
            break
        step = solver.step(f, clock(t), clock(t_next), y, carry)
        stats.steps += 1
        verdict = control.judge(step, t, t_next, solver, tolerance, judged)
        judged = verdict.carry
        if verdict.accept:
            stats.accepted += 1
            step, reached = outputs.take(f, solver, step, t_next)
            if on_accept is not None:
                on_accept(Accepted(t, t_next, y, None if solver.memoryless else carry, reached))
            t, y, carry, rejected = t_next, step.y1, step.carry, None
        else:
            stats.rejected += 1
            rejected = t_next
        why = verdict.status
        if verdict.t_next is None:
            if t != t_end:
                status = Status.STEP_UNDERFLOW if why.ok else why
            break
        t_next = verdict.t_next
        size = t_next - t
    if status.ok and not _all_finite(y):
        status = Status.NON_FINITE
        t, y = outputs.drop_non_finite()
    stats.nfe, stats.jacobians = f.nfe, f.jacobians
    return Outcome(outputs.stacked(), t, y, status, stats, abs(size))


class Outputs:
    """Collects the states at the output times as steps pass them."""

    def __init__(self, clock: Clock, y0: Tensor) -> None:
        self.clock = clock
        self.direction = math.copysign(1.0, clock.times[-1] - clock.times[0])
        self.taken = [y0]

    def take(self, f: VectorField, solver: ODESolver, step: Step, t1: float) -> tuple[Step, range]:
        """Record what lies in an accepted step that ends at ``t1``; the step, densified if need be, and the indices."""
        times, first = self.clock.times, len(self.taken)
        stop = first
        while stop < len(times) and ((t1 - times[stop]) * self.direction >= 0 or _same(times[stop], t1)):
            stop += 1
        outputs = range(first, stop)
        step, states = states_in(f, solver, step, t1, self.clock, outputs)
        self.taken += states
        return step, outputs

    def drop_non_finite(self) -> tuple[float, Tensor]:
        """Take the states from the first non-finite one on as not reached; the last time that is left, and the state.

        What is left then has no connection to the numbers that broke, so that its gradient is right.
        """
        finite = torch.isfinite(torch.stack(self.taken).detach()).flatten(1).all(1).tolist()
        del self.taken[max(1, [*finite, False].index(False)) :]
        return self.clock.times[len(self.taken) - 1], self.taken[-1]

    def stacked(self) -> Tensor:
        """``[T, ...]``, NaN where the solve did not get to."""
        missing = len(self.clock.times) - len(self.taken)
        blank = [torch.full_like(self.taken[0], math.nan)] * missing
        return torch.stack(self.taken + blank)


def at_rest(f: VectorField, y0: Tensor, clock: Clock) -> list[Tensor]:
    """The states at output times that all are the same: ``y0``, which still moves by f as those times move apart."""
    if not clock.differentiable:
        return [y0] * len(clock.times)
    t0 = clock.output(0)
    slope = f(t0, y0)
    moved = (coefficient(clock.output(k) - t0, y0) for k in range(1, len(clock.times)))
    return [y0, *(y0 + dt * slope for dt in moved)]


def states_in(
    f: VectorField, solver: ODESolver, step: Step, t1: float, clock: Clock, outputs: range
) -> tuple[Step, list[Tensor]]:
    """The states at the output times with these indices, all within the step, which ends at host time ``t1``."""
    states, dense = [], False
    for index in outputs:
        if at_end(clock, index, t1):
            states.append(step.y1)
            continue
        if not dense:
            step, dense = solver.densify(f, step), True
        theta = (clock.output(index) - step.t0) / (step.t1 - step.t0)
        states.append(solver.interpolate(step, theta))
    return step, states


def at_end(clock: Clock, index: int, t1: float) -> bool:
    """Whether an output time is the end ``t1`` of its step, so that the step's own ``y1`` is the answer.

    Where times are differentiated only the last output time counts as such: anywhere else the derivative with respect
    to that output time comes out of the dense output.
    """
    if clock.differentiable:
        return index == len(clock.times) - 1
    return _same(clock.times[index], t1)


def _same(t: float, t1: float) -> bool:
    return abs(t - t1) <= 4 * math.ulp(max(abs(t), abs(t1)))


def _clip(t: float, t_next: float, t_end: float) -> float:
    """The end of the next step: within the span, and without leaving a sliver of it behind."""
    left, wanted = t_end - t, t_next - t
    return t_end if abs(left) <= abs(wanted) * 1.01 else t_next


def _resolution(t: float, span: float) -> float:
    """The shortest step that still means something at time ``t``."""
    return max(4 * math.ulp(t), 1e-25 * abs(span))


def _all_finite(y: Tensor) -> bool:
    return torch.compiler.is_compiling() or bool(torch.isfinite(y).all())
