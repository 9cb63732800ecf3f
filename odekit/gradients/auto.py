"""The gradient method that a rule picks for a solve."""

from __future__ import annotations

import math
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from odekit.core import lanes
from odekit.core.control import FixedStep
from odekit.core.problem import Problem
from odekit.core.protocols import GradientMethod, ODESolver, Outcome, StepControl
from odekit.core.rows.answer import RowOutcome
from odekit.core.rows.problem import RowProblem
from odekit.core.runge_kutta import ButcherTableau
from odekit.errors import InputError
from odekit.gradients import memory
from odekit.gradients.checkpointed import Checkpointed
from odekit.gradients.direct import Direct
from odekit.gradients.memory import readable

_COMFORT = 0.5
"""The share of the limit that an estimate may reach: the number of steps may be off by a factor of two."""
_SHARE = 0.25
"""Of the free memory, what is used where no limit is given."""


def _is_limit(instance: Any, attribute: Any, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (number and 0 < value < math.inf):
        raise InputError(f"memory_limit={value!r}: expected a positive number of bytes, such as 2e9, or None")


@attrs.frozen
class Auto(GradientMethod):
    """``direct`` if it fits into memory and the solver is explicit, else ``checkpointed``, on a budget if need be.

    All that it picks from is exact. The first line that applies decides:

    ================================================  ===============================================
    situation                                         method
    ================================================  ===============================================
    inside a function that ``torch.func`` transforms  ``direct``: others cannot be transformed
    gradients are switched off                        ``direct``: nothing is kept
    one state a step is more than half the limit      ``checkpointed(budget=K)``, K states being half
    the solver is implicit                            ``checkpointed``: ``direct`` would factor a matrix
                                                      for every stage, and keep it
    ``direct`` takes less than half the limit         ``direct``: the fastest
    otherwise                                         ``checkpointed``
    ================================================  ===============================================

    ``direct`` is taken to need steps × stages × (what autograd keeps of one call of f + one state). What it keeps is
    measured on one evaluation at y0. Steps are span / ``step_size`` where those are fixed; otherwise a guess, with
    (|f(t0, y0)| in units of the tolerance)^(-1/k) as their size, k being one more than the order of the embedded method
    (the rule for a first step, Hairer, Nørsett & Wanner, *Solving ODEs I*, II.4, without its caution). What was picked
    and why is in ``solution.stats.gradient`` and ``.why``.

    Attributes:
        memory_limit: bytes; by default a quarter of what is free on the state's device when the solve begins.

    Raises:
        InputError: ``memory_limit`` is no positive number.
    """

    memory_limit: float | None = attrs.field(default=None, validator=_is_limit)

    name = "auto"
    exact = True
    twice = True
    memory = "as much as a limit allows"

    def chosen(
        self, problem: Problem | RowProblem, solver: ODESolver, control: StepControl
    ) -> tuple[GradientMethod, str]:
        if lanes.transformed():
            return Direct(), "torch.func transforms ordinary operations only"
        if not torch.is_grad_enabled():
            return Direct(), "gradients are switched off, so that nothing is kept"
        estimate = Estimate.of(problem, solver, control)
        return self.pick(estimate, solver.implicit, problem.y0.device)

    def pick(self, estimate: Estimate, implicit: bool, device: torch.device) -> tuple[GradientMethod, str]:
        """The method for a solve of this size."""
        limit = self.memory_limit
        limit = _SHARE * memory.free(device) if limit is None else limit
        room, allowed = _COMFORT * limit, f"half of the {readable(limit)} allowed"
        states = f"{estimate.steps:.0f} steps × {readable(estimate.state)}"
        if estimate.states > room:
            budget = max(1, int(room // estimate.state))
            return Checkpointed(budget), f"a state for each of {states} is more than {allowed}: {budget} are kept"
        if implicit:
            return Checkpointed(), f"an implicit solver; {states} of state are less than {allowed}"
        work = f"{estimate.steps:.0f} steps × {estimate.stages} stages × {readable(estimate.call)}"
        if estimate.direct > room:
            return Checkpointed(), f"{work} of activations are more than {allowed}, {states} of state are not"
        return Direct(), f"{work} of activations are less than {allowed}"

    def solve(self, problem: Problem, solver: ODESolver, control: StepControl) -> Outcome:
        return self.chosen(problem, solver, control)[0].solve(problem, solver, control)

    def solve_rows(self, problem: RowProblem, solver: ODESolver, control: StepControl) -> RowOutcome:
        return self.chosen(problem, solver, control)[0].solve_rows(problem, solver, control)


@attrs.frozen
class Estimate:
    """How large a solve is.

    Attributes:
        steps: how many steps are expected.
        stages: calls of f in a step.
        call: bytes that autograd keeps of one of them, and of the state that it is given.
        state: bytes of a state with what the solver carries along.
    """

    steps: float
    stages: int
    call: int
    state: int

    @property
    def direct(self) -> float:
        """Bytes that ``direct`` keeps."""
        return self.steps * self.stages * self.call

    @property
    def states(self) -> float:
        """Bytes of one state a step."""
        return self.steps * self.state

    @classmethod
    def of(cls, problem: Problem | RowProblem, solver: ODESolver, control: StepControl) -> Estimate:
        """Measured on one evaluation of f, which counts."""
        start = problem if isinstance(problem, Problem) else problem.start
        f, y0 = start.field.fork(), start.y0.detach().requires_grad_()
        slopes: list[Tensor] = []

        def evaluate() -> Tensor:
            slopes.append(f(start.times[0], y0))
            return slopes[-1]

        size = y0.numel() * y0.element_size()
        call = memory.kept_by(evaluate, y0) + size
        start.field.count.nfe += f.nfe
        stages, carried = _shape(solver)
        return cls(_steps(problem, solver, control, y0.detach(), slopes[0].detach()), stages, call, size * carried)


def _shape(solver: ODESolver) -> tuple[int, int]:
    """Calls of f in a step, and how many tensors like the state lie between two steps; of an unknown method a bound."""
    tableau = getattr(solver, "tableau", None)
    known = isinstance(tableau, ButcherTableau)
    stages = len(tableau.b) if isinstance(tableau, ButcherTableau) else max(solver.order, 1)
    return stages, 1 if solver.memoryless else 2 if known else 1 + max(solver.order, 1)


def _steps(problem: Problem | RowProblem, solver: ODESolver, control: StepControl, y0: Tensor, slope: Tensor) -> float:
    """How many steps to expect; of rows, for the one with the most."""
    times = np.atleast_2d(np.asarray(problem.times, dtype=np.float64))
    span = np.abs(times[:, -1] - times[:, 0])
    span = np.where(np.isfinite(span), span, np.maximum(1.0, np.abs(times[:, 0])))
    if isinstance(control, FixedStep):
        size: Any = control.step_size
    else:
        tolerance = problem.tolerance
        rate = np.atleast_1d(np.asarray(tolerance.norm(slope / tolerance.scale(y0)).tolist(), dtype=np.float64))
        rate = np.where(np.isfinite(rate), np.maximum(rate, 1e-30), 1e30)
        size = rate ** (-1.0 / ((solver.error_order or solver.order) + 1))
        size = np.minimum(size, getattr(control, "dt_max", math.inf))
    return float(min(np.ceil(span / size).max(initial=1.0), problem.max_steps))
