"""Backpropagation through the solver's own operations."""

from __future__ import annotations

import attrs

from odekit.core.integrate import integrate
from odekit.core.problem import Problem
from odekit.core.protocols import GradientMethod, ODESolver, Outcome, StepControl
from odekit.core.rows.answer import RowOutcome
from odekit.core.rows.loop import integrate_rows
from odekit.core.rows.problem import RowProblem


@attrs.frozen
class Direct(GradientMethod):
    """Backpropagation through every operation of the solve: exact, fastest, and keeps everything in memory.

    Discretise, then optimise. There is no custom autograd function on this path, so that whatever PyTorch can do to
    ordinary code (double backward, forward mode, function transforms) it can do here. The choice of step sizes is
    taken as given: no gradient flows through the error control.

    Under ``torch.func.vmap`` (over states, parameters, ``args`` or times) all lanes share their steps, which are short
    enough for the worst of them, so that each meets the tolerance (:mod:`odekit.core.lanes`).
    """

    name = "direct"
    exact = True
    twice = True
    memory = "steps × stages × activations of f"

    def solve(self, problem: Problem, solver: ODESolver, control: StepControl) -> Outcome:
        return integrate(
            problem.field, problem.y0, problem.clock, solver, control, problem.tolerance, problem.max_steps,
            course=problem.course,
        )  # fmt: skip

    def solve_rows(self, problem: RowProblem, solver: ODESolver, control: StepControl) -> RowOutcome:
        return integrate_rows(
            problem.dynamics, problem.y0, problem.clock, solver, control, problem.tolerance, problem.max_steps,
            course=problem.course,
        )  # fmt: skip
