"""How a solver behaves: what it changes, where it asks f, how it counts, and how it fails."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from odekit.core.solution import Status
from odekit.solving import solve
from odekit.testing.checks import Checks, Measured
from odekit.testing.measure import apart
from odekit.testing.probe import Counted, changes, snapshot
from odekit.testing.problems import Problem
from odekit.testing.solver.subject import SolverSubject

CHECKS = Checks()

_GRID = (0.2, 0.35, 0.5, 0.58, 0.7, 0.9)
_SPAN = (0.3, 1.1)


@CHECKS.add
def pure(subject: SolverSubject) -> Measured:
    """A step taken again from the same state and carry gives the same numbers, whatever was done in between."""
    drive = subject.drive(subject.timed, _GRID)
    worst, where = 0.0, ""
    for (t0, t1, y, carry), step in reversed(list(zip(drive.starts, drive.steps, strict=True))):
        again = drive.solver.step(drive.field, t0, t1, y, carry)
        gap = max(_gap(again.y1, step.y1), _gap(again.error, step.error))
        if gap > worst:
            worst, where = gap, f"the step from {t0} to {t1}, taken again after the later ones, is another one"
    return Measured(worst == 0, "equal" if worst == 0 else f"{worst:.1e} apart", "equal to the last bit", where)


def _gap(found: Tensor | None, expected: Tensor | None) -> float:
    if found is None or expected is None:
        return 0.0 if found is expected else math.inf
    return 0.0 if torch.equal(found, expected) else max(apart(found, expected), 1e-300)


@CHECKS.add
def inputs_untouched(subject: SolverSubject) -> Measured:
    """A step changes neither the state nor the carry that it is handed."""
    drive = subject.drive(subject.timed, _GRID)
    changed: set[str] = set()
    for t0, t1, y, carry in drive.starts:
        before = snapshot({"y0": y, "carry": carry})
        step = drive.solver.step(drive.field, t0, t1, y, carry)
        drive.solver.interpolate(drive.solver.densify(drive.field, step), 0.4)
        drive.solver.advance(drive.field, t0, t1, y, carry)
        changed.update(place.replace("'", "") for place in changes(before, snapshot({"y0": y, "carry": carry})))
    said = ", ".join(sorted(changed))
    return Measured(not changed, f"changed: {said}" if changed else "unchanged", "y0 and carry as they were")


@CHECKS.add
def no_state(subject: SolverSubject) -> Measured:
    """Nothing of a solve stays on the solver or its class: settings live there, progress in the carry."""
    solver = subject.drive(subject.timed, _GRID).solver
    kept = {"self": solver, "class": dict(vars(type(solver)))}
    subject.drive(subject.autonomous, _GRID)
    before = snapshot(kept)
    drive = subject.drive(subject.timed, [0.1, 0.15, 0.3])
    for (t0, t1, y, carry), step in zip(drive.starts, drive.steps, strict=True):
        solver.step(drive.field, t0, t1, y, carry)
        solver.interpolate(solver.densify(drive.field, step), 0.3)
    changed = changes(before, snapshot({"self": solver, "class": dict(vars(type(solver)))}))
    return Measured(not changed, f"changed: {', '.join(changed)}" if changed else "unchanged", "no change")


@CHECKS.add
def shortcuts(subject: SolverSubject) -> Measured:
    """advance and replay come to the state that step comes to; so does a step with the carry of a memoryless init."""
    drive = subject.drive(subject.timed, _GRID)
    solver, field = drive.solver, drive.field
    gaps = {"advance": 0.0, "replay": 0.0}
    for (t0, t1, y, carry), step in zip(drive.starts, drive.steps, strict=True):
        gaps["advance"] = max(gaps["advance"], apart(solver.advance(field, t0, t1, y, carry).y1, step.y1))
        gaps["replay"] = max(gaps["replay"], apart(solver.replay(field, t0, t1, y, carry), step.y1))
        if solver.memoryless:
            fresh = solver.step(field, t0, t1, y, solver.init(field, t0, y))
            gaps["memoryless"] = max(gaps.get("memoryless", 0.0), apart(fresh.y1, step.y1))
    said = ", ".join(f"{name} {gap:.1e}" for name, gap in gaps.items())
    return Measured(max(gaps.values()) < 1e-11, f"{said} apart", "rounding")


@CHECKS.add
def inside_the_span(subject: SolverSubject) -> Measured:
    """f is asked at no time outside the span, in the first and the last step as in others, in both directions."""
    worst, where = 0.0, ""
    for times in ([0.2, 0.7], [0.7, 0.2], list(_GRID), list(reversed(_GRID))):
        drive = subject.drive(subject.timed, times)
        for step in drive.steps:
            drive.solver.densify(drive.field, step)
        beyond = drive.field.excess((times[0], times[-1]))
        if beyond > worst:
            worst, where = beyond, f"in {len(times) - 1} steps from {times[0]} to {times[-1]}"
    said = f"{worst:.2g} beyond" if worst else "inside"
    return Measured(worst == 0, said, "inside, but for rounding", where)


@CHECKS.add
def counts(subject: SolverSubject) -> Measured:
    """The solve counts every call of f, with fixed and with adaptive steps."""
    problem, found = subject.timed, []
    paces: tuple[dict[str, Any], ...] = ({"step_size": 0.11}, subject.pace(0.07))
    for pace in paces:
        f = Counted(problem.f)
        solution = solve(
            f, problem.exact(0.2), [0.2, 0.53, 1.0], solver=subject.told(problem.linear), dense=False, **pace
        )
        found.append((solution.stats.nfe, f.calls))
    said = " and ".join(f"{counted} of {calls}" for counted, calls in found)
    return Measured(all(counted == calls for counted, calls in found), said, "all calls")


@CHECKS.add
def failures(subject: SolverSubject) -> Measured:
    """NaN from f, at once or later, or in the state, ends in a status other than success, after few calls."""
    problem, said, wrong = subject.timed, [], []
    for trouble, (f, y0) in _troubles(problem).items():
        paces: dict[str, dict[str, Any]] = {"fixed": {"step_size": 0.1}, "adaptive": subject.pace(0.1)}
        for steps, pace in paces.items():
            counted = Counted(f, most=20_000)
            solution = solve(
                counted, y0, [*_SPAN], solver=subject.told(problem.linear), throw=False, max_steps=2_000, **pace
            )
            status = cast(Status, solution.status)
            said.append(status.name)
            healthy = trouble == "y0" or bool(torch.isfinite(solution.y1).all())
            if status.ok or not healthy:
                wrong.append(f"{trouble}, {steps} steps: {status.name}, y1 {solution.y1.tolist()}")
    kinds = sorted({name for name in said if name != Status.SUCCESS.name})
    return Measured(not wrong, ", ".join(kinds), "a failed status, and finite states until then", "; ".join(wrong))


def _troubles(problem: Problem) -> dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Tensor]]:
    y0, late = problem.exact(_SPAN[0]), 0.7

    def broken(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t > late, torch.full_like(y, math.nan), problem.f(t, y))

    return {
        "f later": (broken, y0),
        "f at once": (lambda t, y: torch.full_like(y, math.nan), y0),
        "y0": (problem.f, torch.full_like(y0, math.nan)),
    }
