"""The gradient of a steady state, by the implicit function theorem: the way to it does not matter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from odekit.core.linear import GMRES, Auto, Linear, resolve_linear
from odekit.core.outputs import same_time
from odekit.core.problem import Problem
from odekit.core.protocols import GradientMethod, ODESolver, Outcome, StepControl
from odekit.core.rows.answer import RowOutcome
from odekit.core.rows.one_by_one import solve_one_by_one
from odekit.core.rows.problem import RowProblem
from odekit.core.tolerance import default_tolerances
from odekit.errors import GradientError, InputError
from odekit.gradients.captured import Dependencies
from odekit.gradients.direct import Direct
from odekit.gradients.forwards import unrecorded
from odekit.gradients.implicit_system import Map, System, as_real, like, system
from odekit.gradients.products import added, vjp
from odekit.gradients.tape import Tape, record


def _positive(instance: Any, attribute: Any, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise InputError(f"{attribute.name}={value!r}: expected a number > 0")


@attrs.frozen
class Implicit(GradientMethod):
    """The state y* at the end is taken to satisfy f(t1, y*, θ) = 0, whatever it was reached from.

    Then dL/dθ = -(∂f/∂θ)ᵀ w with (∂f/∂y)ᵀ w = dL/dy*: one linear system, at memory that does not depend on the solve.
    y0 and the times play no part. Outputs at rest can be differentiated as well, and the state of an event such as
    :func:`odekit.steady_state`; outputs on their way cannot. The second derivative, of the state at the end alone, is
    that of two Newton steps from y*, which have the derivatives of the solution up to the third.
    Bai, Kolter & Koltun 2019, *Deep equilibrium models*, Theorem 1.

    How far the state is from rest is judged by one Newton correction, (∂f/∂y)⁻¹ f, in units of the tolerances of the
    solve, or of the default ones of an adaptive solve where these are wider. That is the distance to go, whatever the
    unit of time, and the error of the gradient is in proportion to it.
    With ``batch="rows"`` the rows are solved one after the other.

    Attributes:
        linear: how the system is solved: ``"dense"``, ``"rows"`` by a block for each of independent rows, ``"gmres"``
            without a matrix, or an object such as ``GMRES(restart=50)``. ``"auto"`` takes blocks where rows are
            independent, else one matrix, and GMRES where that would have more than 1000 rows.
        slack: how far from the steady state a state may be, in these units.

    Raises:
        InputError: one of these is something else.
        GradientError: the last state, or another one that is differentiated, is not at rest, or ∂f/∂y is singular.
    """

    linear: Linear = attrs.field(factory=Auto, converter=resolve_linear)
    slack: float = attrs.field(default=100.0, validator=_positive)

    name = "implicit"
    exact = False
    steady = True
    twice = True
    memory = "state + (∂f/∂y, unless by GMRES) + one evaluation's activations"

    def solve(self, problem: Problem, solver: ODESolver, control: StepControl) -> Outcome:
        if not torch.is_grad_enabled():
            return unrecorded(problem, solver, control)
        tape = _Tape(problem, solver, control, self)
        ys, y1 = record(tape)
        return attrs.evolve(tape.outcomes.pop(), ys=ys, y1=y1)

    def solve_rows(self, problem: RowProblem, solver: ODESolver, control: StepControl) -> RowOutcome:
        if not torch.is_grad_enabled():
            return Direct().solve_rows(problem, solver, control)
        return solve_one_by_one(problem, self, solver, control)


class _Tape(Tape):
    """The last state, and ∂f/∂y there.

    Attributes:
        once: whether another state was differentiated as well, of which there is no second derivative.
    """

    method = "implicit"
    needs_outputs = True

    def __init__(self, problem: Problem, solver: ODESolver, control: StepControl, how: Implicit) -> None:
        self.dependencies = Dependencies(problem)
        self.problem = problem.sparing() if self.dependencies.needed else problem
        self.y0, self.ts = problem.y0, problem.ts
        self.solver, self.control, self.how = solver, control, how
        self.outcomes: list[Outcome] = []
        self.system: Any = None
        self.once = False

    def solve(self) -> tuple[Tensor, Tensor]:
        outcome = unrecorded(self.problem, self.solver, self.control, self.dependencies.f0)
        self.outcomes.append(outcome)
        self.stats, self.t1, self.y1 = outcome.stats, outcome.t1, outcome.y1
        self.times = [slot.t for slot in outcome.slots]
        if self.dependencies.needed and outcome.status.ok:
            self.system = self._settled(self.t1, self.y1)
            outcome.stats.nfe = self.problem.field.nfe
        return outcome.ys, outcome.y1

    def _settled(self, t: float, y: Tensor) -> System:
        """∂f/∂y at a state that is close enough to the steady one."""
        f, tolerance = Map(self.problem.field, t, y), self.problem.tolerance
        with torch.no_grad():
            u = as_real(y)
            found = system(f, u, self.how.linear)
            left = like(found.solve(f(u)), y)
            rtol, atol = default_tolerances(y.dtype, adaptive=True)
            unit = torch.maximum(tolerance.scale(y), atol + rtol * y.abs())
            distance = float(tolerance.norm(left / unit))
        if not distance <= self.how.slack:
            raise GradientError(
                f"gradient='implicit' is for steady states, but at t = {t:g} the state is {distance:.1e} tolerances "
                f"away from one, more than slack={self.how.slack:g}; solve for longer, end the solve by "
                "events=odekit.steady_state(f), or use gradient='checkpointed' for states on their way"
            )
        return found

    def pull(
        self, outputs: Sequence[Tensor], grad_ys: Tensor, grad_y1: Tensor, time_gradient: bool
    ) -> list[Tensor | None]:
        if self.system is None:
            raise GradientError("gradient='implicit' has no gradient of a solve that failed")
        inputs = self.dependencies.inputs()
        field = self.dependencies.field(self.problem, inputs)
        sums: list[Tensor | None] = [None] * len(inputs)
        wanted, at_end = [], grad_y1
        for t, y, grad in zip(self.times[1:], outputs[0][1:], grad_ys[1:], strict=True):
            if torch.equal(y, self.y1):
                at_end = at_end + grad
            elif bool(grad.any()):
                wanted.append((t, y, grad, self._settled(t, y)))
        self.once = self.once or bool(wanted)
        for t, y, grad, at_rest in [*wanted, (self.t1, self.y1, at_end, self.system)]:
            weights = like(-at_rest.solve_transposed(as_real(grad).contiguous()), grad)
            with torch.enable_grad():
                y = y.detach().requires_grad_()
                slope = field(t, y)
            self.dependencies.check_none_missed([slope], [y, *inputs], self.method)
            sums = [added(total, part) for total, part in zip(sums, vjp([slope], [weights], inputs), strict=True)]
        self.stats.nfe_backward += field.nfe
        return [grad_ys[0], torch.zeros_like(self.ts) if time_gradient else None, *sums]

    def retrace(self, y0: Tensor, ts: Tensor, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Two Newton steps from the last state."""
        if isinstance(self.how.linear, GMRES):
            raise GradientError("second derivatives of gradient='implicit' need a matrix: choose linear='dense'")
        if self.once:
            raise GradientError("gradient='implicit' has second derivatives of the last state alone; take y1 or ys[-1]")
        field = self.dependencies.field(self.problem, inputs)
        f = Map(field, self.t1, self.y1)
        u = as_real(self.y1)
        for _ in range(2):
            matrix = torch.func.jacrev(f)(u).reshape(u.numel(), u.numel())
            u = u - torch.linalg.solve(matrix, f(u).reshape(-1)).reshape(u.shape)
        self.stats.nfe_backward += field.nfe
        y1 = like(u, self.y1)
        held = [y1 if same_time(t, self.t1) else self.y1 for t in self.times[1:]]
        return torch.stack([y0, *held]), y1
