"""The one integration loop. Everything that it calls is a protocol, and all that moves is in local variables."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from odekit.core import lanes
from odekit.core.accepted import Accepted
from odekit.core.course import Course
from odekit.core.dense import Kept
from odekit.core.events import Monitor
from odekit.core.looping import LoopingSolver, Start
from odekit.core.outputs import Outputs, at_rest
from odekit.core.protocols import CountedField, ODESolver, Outcome, StepControl, VectorField
from odekit.core.riding import ride
from odekit.core.sections import Section
from odekit.core.solution import Status
from odekit.core.times import Clock
from odekit.core.tolerance import Tolerance


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
    course: Course | None = None,
) -> Outcome:
    """Integrate from ``clock.times[0]`` to ``clock.times[-1]`` and record the state at every time in between.

    Steps are those of the control, never cut by output times; the last one ends at the end of the span exactly, or
    in it lies an event that ends the solve. ``f0`` is ``f(t0, y0)`` where the caller has it already; ``on_accept`` is
    told of every accepted step; ``course`` says what else there is to do on the way. ``max_steps`` counts all steps of
    ``course.stats``.
    """
    course = Course() if course is None else course
    times, stats, stops, hooks = clock.times, course.stats, course.stops, course.callbacks
    t, t_end, y = times[0], times[-1], y0
    outputs = Outputs(clock, y0, course.every_step)
    monitor = Monitor(course.watches, course.fired) if course.watches else None
    status, why, size, rejected, fresh = Status.SUCCESS, Status.SUCCESS, 0.0, None, True
    tries: tuple[float, ...] = ()
    here = f
    if t == t_end:
        outputs.rest(at_rest(f, y0, clock))
        y = outputs.taken[-1]
    else:
        here = around(f, stops.section(t, stops.next_after(t, t_end)))
        solver = solver.prepared(tolerance)
        proposal = control.start(_following(here, clock), t, t_end, y0, solver, tolerance, f0)
        status, t_next, judged = proposal.status, proposal.t_next, proposal.carry
        carry = solver.init(here, clock(t), y0, None if clock.differentiable else proposal.f0)
        if isinstance(solver, LoopingSolver) and status.ok and course.quiet and not clock.differentiable:
            keep = on_accept is not None or course.recorder is not None
            begin = Start.of(t, t_next, t_end, y, carry, judged, max_steps - stats.steps, times[1:])
            stretches = solver.loop(here, begin, control, tolerance, keep)
            if stretches is not None:
                t, y, t_next, status = ride(stretches, t, here, solver, outputs, course, on_accept)
                size = t_next - t
    take = solver.step if control.adaptive else solver.advance
    while status.ok and t != t_end:
        stop, ahead = stops.next_after(t, t_end), t_next - t
        t_next = _clip(t, t_next, stop)
        too_short = t_next != stop and abs(t_next - t) < _resolution(t, t_end - times[0])
        if too_short or t_next == rejected:  # the same step again would be rejected again
            status = Status.STEP_UNDERFLOW if why.ok else why
            break
        if stats.steps >= max_steps:
            status = Status.MAX_STEPS
            break
        if hooks.attempt is not None:
            hooks.attempt(t, t_next, y)
        step = take(here, clock(t), clock(t_next), y, carry)
        stats.steps += 1
        verdict = control.judge(step, t, t_next, solver, tolerance, judged)
        judged = verdict.carry
        if not verdict.accept:
            stats.rejected += 1
            rejected = t_next
            if step.retry is not None:
                carry, tries = step.retry, (*tries, t_next)
            if hooks.reject is not None:
                hooks.reject(t, t_next, y)
        else:
            stats.accepted += 1
            if hooks.accept is not None:
                hooks.accept(t, t_next, y)
            hits, cut = [], False
            if monitor is not None:
                step = solver.densify(here, step)
                hits = monitor.inspect(here, solver, step, t, t_next)
                cut = bool(hits) and course.watches[hits[-1].event].event.stops
            first, dense = len(outputs.slots), monitor is not None
            densified, slots = outputs.take(here, solver, step, t_next, hits, cut, dense)
            if course.recorder is not None:
                course.recorder.add(Kept(t, t_next, densified, here, solver, dense or densified is not step))
            step = densified
            if on_accept is not None:
                section = stops.section(t, t_next)
                kept = None if solver.memoryless or fresh else carry
                on_accept(Accepted(t, t_next, fresh, first, slots, section, tries, y0=y, carry=kept))
            t, y, carry, rejected, fresh, tries = t_next, step.y1, step.carry, None, False, ()
            if cut:
                status, t, y = Status.EVENT, hits[-1].t, outputs.taken[-1]
            if hooks.reached is not None:
                hooks.reached(t, y)
            if cut:
                break
        why = verdict.status
        if verdict.t_next is None:
            if t != t_end:
                status = Status.STEP_UNDERFLOW if why.ok else why
            break
        t_next = verdict.t_next
        if verdict.accept and control.adaptive and t == stop and abs(ahead) > abs(t_next - t):
            t_next = t + ahead  # a forced stop does not make the control forget its step size
        size = t_next - t
        if verdict.accept and t in stops.jumps:
            here = around(f, stops.section(t, stops.next_after(t, t_end)))
            carry, fresh = solver.init(here, clock(t), y), True
    if not _all_finite(y):  # also where a later step has told of it: what is given back was reached
        status = Status.NON_FINITE if status.ok else status
        t, y = outputs.drop_non_finite()
    stats.nfe, stats.jacobians = f.nfe, f.jacobians
    return Outcome(torch.stack(outputs.taken), t, y, status, stats, abs(size), tuple(outputs.slots))


class _Following:
    """f at the times that steps compute with, for somebody who knows those of the host."""

    def __init__(self, f: VectorField, clock: Clock) -> None:
        self.f = f
        self.clock = clock

    def __call__(self, t: float, y: Tensor) -> Tensor:
        return self.f(self.clock(t), y)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.f, name)


def _following(f: VectorField, clock: Clock) -> VectorField:
    return cast(VectorField, _Following(f, clock)) if clock.differentiable else f


def around(f: CountedField, section: Section | None) -> CountedField:
    """``f`` within a section; ``f`` itself if it is continuous everywhere."""
    return f if section is None else f.confined(section)


def _clip(t: float, t_next: float, stop: float) -> float:
    """The end of the next step: not beyond the stop, and without leaving a sliver in front of it."""
    left, wanted = stop - t, t_next - t
    return stop if abs(left) <= abs(wanted) * 1.01 else t_next


def _resolution(t: float, span: float) -> float:
    """The shortest step that still means something at time ``t``."""
    return max(4 * math.ulp(t), 1e-25 * abs(span) if math.isfinite(span) else 0.0)


def _all_finite(y: Tensor) -> bool:
    return torch.compiler.is_compiling() or lanes.everywhere(torch.isfinite(y).all())
