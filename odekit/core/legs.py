"""A solve in legs: each goes on where an event has changed the state, until the last time or a terminal event."""

from __future__ import annotations

import math
from typing import Any

import attrs
import torch
from torch import Tensor

from odekit.core import lanes
from odekit.core.events import located
from odekit.core.outputs import Slot
from odekit.core.problem import Problem
from odekit.core.protocols import GradientMethod, ODESolver, Outcome, StepControl
from odekit.core.solution import Status
from odekit.core.times import Clock


@attrs.frozen(eq=False)
class Point:
    """One output: its host time, that time as a tensor, the packed state, and which event it is, if any."""

    host: float
    t: Tensor
    y: Tensor
    event: int | None = None


@attrs.define(eq=False)
class Journey:
    """The legs of a solve, one after the other.

    Attributes:
        outcome: of the last leg.
        planned: the states at the caller's output times as far as they were reached, ``[n, ...]`` from each leg.
        steps: the start of every leg and the ends of its steps, where those were asked for.
        crossings: the events that happened, in order.
        t1, y1: where it ended.
        event: the event that ended it, if one did.
    """

    planned: list[Tensor] = attrs.field(factory=list)
    steps: list[Point] = attrs.field(factory=list)
    crossings: list[Point] = attrs.field(factory=list)
    outcome: Any = None
    t1: float = 0.0
    y1: Any = None
    event: int | None = None


def travel(problem: Problem, gradient: GradientMethod, solver: ODESolver, control: StepControl) -> Journey:
    """Solve leg after leg.

    Every leg is a solve of its own for the gradient method. A leg that follows an event begins at the event's time,
    which can be differentiated like any other initial time.
    """
    journey, jumped = Journey(), False
    gradient, why = gradient.chosen(problem, solver, control)
    while True:
        outcome = gradient.solve(problem, solver, control)
        outcome.stats.gradient, outcome.stats.why = gradient.name, why
        reached, event = _record(journey, problem, outcome, jumped)
        jump = None if event is None else problem.course.watches[event.event or 0].event.jump
        if event is None or jump is None:
            journey.event = None if event is None else event.event
            return journey
        status = outcome.status
        y0 = problem.course.watches[event.event or 0].jumped(event.t.to(event.y.real.dtype), event.y)
        journey.y1 = y0
        if reached == len(problem.times):
            journey.outcome = attrs.evolve(outcome, status=Status.SUCCESS if status is Status.EVENT else status)
            if problem.course.every_step:
                journey.steps.append(attrs.evolve(event, y=y0, event=None))
            return journey
        problem, jumped = _rest(problem, event, y0, reached), True


def _record(journey: Journey, problem: Problem, outcome: Outcome, jumped: bool) -> tuple[int, Point | None]:
    """Note what a leg brought: how many of its output times were reached, and the event that ended it."""
    journey.outcome, journey.t1, journey.y1 = outcome, outcome.t1, outcome.y1
    every_step, watches = problem.course.every_step, problem.course.watches
    if not (watches or every_step or jumped):
        journey.planned.append(outcome.ys)
        return len(outcome.slots), None
    clock = problem.clock
    reached, last, planned = 1, None, []
    for k, (slot, y) in enumerate(zip(outcome.slots, outcome.ys, strict=True)):
        point = Point(slot.t, _time(clock, slot, problem), y)
        if slot.hit is not None:
            t, y = located(watches[slot.hit.event], point.t, y, slot.hit.slope)
            last = Point(slot.t, t, y, slot.hit.event)
            journey.crossings.append(last)
            continue
        if every_step:
            journey.steps.append(point)
        if slot.index is not None:
            reached = slot.index + 1
            if not (jumped and k == 0):
                planned.append(y)
    if planned:
        journey.planned.append(torch.stack(planned))
    if outcome.status is not Status.EVENT or last is None:
        return reached, None
    if every_step:
        journey.steps.append(last)
        reached = len(problem.times) if last.host == problem.times[-1] else 1
    journey.y1 = last.y
    return reached, last


def _time(clock: Clock, slot: Slot, problem: Problem) -> Tensor:
    t = slot.time(clock)
    if isinstance(t, Tensor):
        return t
    return torch.full((), slot.t, dtype=problem.ts.dtype, device=problem.ts.device)


def _rest(problem: Problem, event: Point, y0: Tensor, reached: int) -> Problem:
    """What is left to be solved after an event."""
    ts = problem.ts[reached:]
    start = event.t
    if lanes.differentiated(start) and ts.device.type != "mps":  # the value to the last digit, whatever dtype ts has
        ts = ts.double()
        start = (event.t - event.t.detach()).double() + event.host
    return attrs.evolve(
        problem,
        y0=y0,
        times=(event.host, *problem.times[reached:]),
        ts=torch.cat([start.reshape(1).to(ts), ts]),
        course=attrs.evolve(problem.course, fired=event.event),
    )


def padded(pieces: list[Tensor], wanted: int) -> Tensor:
    """The states of all legs as ``[T, ...]``, NaN where the solve did not get to."""
    missing = wanted - sum(len(piece) for piece in pieces)
    if missing:
        pieces = [*pieces, torch.full_like(pieces[0][:1], math.nan).expand(missing, *pieces[0].shape[1:])]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
