"""The forward solve of methods with a backward pass of their own: without a graph, and once more with one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from odekit.core.accepted import Accepted
from odekit.core.integrate import integrate
from odekit.core.problem import Problem
from odekit.core.protocols import ODESolver, Outcome, StepControl
from odekit.core.rows.answer import RowOutcome
from odekit.core.rows.clock import RowClock
from odekit.core.rows.loop import RowsAccepted, integrate_rows
from odekit.core.rows.problem import RowProblem
from odekit.core.solution import Stats
from odekit.core.times import Clock
from odekit.gradients.captured import Dependencies
from odekit.gradients.direct import Direct


def unrecorded(
    problem: Problem,
    solver: ODESolver,
    control: StepControl,
    f0: Tensor | None = None,
    on_accept: Callable[[Accepted], None] | None = None,
) -> Outcome:
    """Solve without a graph."""
    with torch.no_grad():
        return integrate(
            problem.field, problem.y0.detach(), Clock(problem.times), solver, control, problem.tolerance,
            problem.max_steps, f0=f0, on_accept=on_accept, course=problem.course,
        )  # fmt: skip


def unrecorded_rows(
    problem: RowProblem,
    solver: ODESolver,
    control: StepControl,
    f0: Tensor | None = None,
    on_accept: Callable[[RowsAccepted], None] | None = None,
) -> RowOutcome:
    """Solve by rows without a graph."""
    with torch.no_grad():
        return integrate_rows(
            problem.dynamics, problem.y0, RowClock(problem.times, None, problem.y0), solver, control,
            problem.tolerance, problem.max_steps, f0=f0, on_accept=on_accept, course=problem.course,
        )  # fmt: skip


def retraced(
    problem: Problem, dependencies: Dependencies, solver: ODESolver, control: StepControl, stats: Stats, y0: Tensor,
    ts: Tensor, inputs: list[Tensor],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The outputs and the last state once more, from these tensors and under autograd; ``stats`` counts the cost."""
    again = problem.again(dependencies.field(problem, inputs), y0, ts)
    outcome = Direct().solve(again, solver.differentiable(2), control)
    stats.nfe_backward += outcome.stats.nfe
    return outcome.ys, outcome.y1


def retraced_rows(
    problem: RowProblem, dependencies: Dependencies, solver: ODESolver, control: StepControl, stats: Stats, y0: Tensor,
    ts: Tensor, inputs: list[Tensor],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The same by rows."""
    again = problem.again(dependencies.field(problem.start, inputs), y0, ts)
    outcome = Direct().solve_rows(again, solver.differentiable(2), control)
    stats.nfe_backward += outcome.stats.nfe
    return outcome.ys, outcome.y1
