"""From what a solve reached to the Solution that its caller gets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import optree
import torch
from torch import Tensor

from odekit.core import lanes
from odekit.core.dense import DenseOutput
from odekit.core.legs import Journey, Point, padded
from odekit.core.problem import Problem
from odekit.core.solution import EventLog, Solution
from odekit.errors import InputError, nearest

Save = Callable[[Tensor, Any], Any]
"""What is kept of an output, from its time and the state."""


def resolve_save(save: Any) -> tuple[bool, Save | None]:
    """Whether every accepted step is an output, and the function to apply to the outputs, if there is one."""
    if save is None:
        return False, None
    if isinstance(save, str):
        if save != "steps":
            raise InputError(f"save={save!r} is not known. {nearest(save, ['steps'])} A function (t, y) works too.")
        return True, None
    if not callable(save):
        raise InputError(f"save is a {type(save).__name__}; expected 'steps', or a function save(t, y) or save(y)")
    return False, save if _arguments(save) != 1 else lambda t, y: save(y)


def _arguments(function: Callable[..., Any]) -> int:
    """How many positional arguments a call must have; 2 where that cannot be told."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 2
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 2
    required = [p for p in positional if p.default is p.empty]
    return len(required) or min(len(positional), 2)


def report(journey: Journey, problem: Problem, saved: Save | None) -> Solution:
    """The solution, on states nested as the caller's."""
    outcome, layout = journey.outcome, problem.layout
    if problem.course.every_step:
        ts, packed = _stacked(journey.steps, problem)
    else:
        ts, packed = problem.ts, padded(journey.planned, len(problem.times))
    ys = layout.unpack(packed)
    if saved is not None:
        ys = _apply(saved, ts.to(packed.real.dtype), packed, layout.unpack)
    return Solution(
        ts=ts,
        ys=ys,
        status=outcome.status,
        stats=outcome.stats,
        t1=_end(journey, problem),
        y1=layout.unpack(journey.y1),
        events=tuple(_log(journey, problem, k) for k in range(len(problem.course.watches))),
        event=journey.event,
        dense=_dense(journey, problem),
    )


def _end(journey: Journey, problem: Problem) -> float | Tensor:
    """When the solve ended: a host float, unless lanes have times of their own."""
    t = problem.clock(journey.t1)
    return t if isinstance(t, Tensor) and lanes.has_lanes(t) else journey.t1


def _stacked(points: Sequence[Point], problem: Problem) -> tuple[Tensor, Tensor]:
    if not points:
        return problem.ts[:0], problem.y0.new_empty((0, *problem.y0.shape))
    return torch.stack([point.t.to(problem.ts) for point in points]), torch.stack([point.y for point in points])


def _log(journey: Journey, problem: Problem, event: int) -> EventLog:
    ts, ys = _stacked([point for point in journey.crossings if point.event == event], problem)
    return EventLog(ts, problem.layout.unpack(ys))


def _apply(saved: Save, ts: Tensor, packed: Tensor, unpack: Callable[[Tensor], Any]) -> Any:
    results = [saved(t, unpack(y)) for t, y in zip(ts, packed, strict=True)]
    return optree.tree_map(lambda *leaves: torch.stack([torch.as_tensor(leaf) for leaf in leaves]), *results)


def _dense(journey: Journey, problem: Problem) -> DenseOutput | None:
    recorder = problem.course.recorder
    if recorder is None or not recorder.steps:
        return None
    detached = journey.outcome.ys.requires_grad and not recorder.steps[-1].step.y1.requires_grad
    return DenseOutput(tuple(recorder.steps), journey.t1, problem.layout, detached)
