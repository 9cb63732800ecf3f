"""The exact gradient of explicit Runge-Kutta methods with the activations of one call of f at a time."""

from __future__ import annotations

import attrs
import torch

from odekit.core.compiled import uncompiled
from odekit.core.problem import Problem
from odekit.core.protocols import ODESolver, Outcome, StepControl
from odekit.core.rows.answer import RowOutcome
from odekit.core.rows.one_by_one import solve_one_by_one
from odekit.core.rows.problem import RowProblem
from odekit.core.runge_kutta import ExplicitRungeKutta
from odekit.errors import GradientError
from odekit.gradients.captured import Dependencies
from odekit.gradients.checkpointed import Checkpointed, StepsTape
from odekit.gradients.direct import Direct
from odekit.gradients.recomputed import Recomputed
from odekit.gradients.sweep import Sweep


@attrs.frozen
class Symplectic(Checkpointed):
    """Goes back through each accepted step stage by stage: the adjoint system, solved by the conjugate scheme.

    A step is first taken again for its stages, without gradients. Then, from the last stage to the first, f is called
    once more at Y_i = y_n + h Σ_j a_ij k_j for the product μ_i = (∂f/∂y)ᵀ κ_i, and likewise for the parameters, with

        κ_i = h (b_i λ_{n+1} + Σ_{j>i} a_ji μ_j),    λ_n = λ_{n+1} + Σ_i μ_i.

    That is the symplectic adjoint method. Its stages Λ_i = κ_i / (h b_i) and slopes l_i = -(∂f/∂y)ᵀ Λ_i obey
    Λ_i = λ_{n+1} - h Σ_{j>i} b_j (a_ji / b_i) l_j and λ_n = λ_{n+1} - h Σ_i b_i l_i: the explicit scheme, backwards in
    time, whose weights ã_ij = b_j - b_j a_ji / b_i make the pair with the forward method symplectic, so that λᵀ ∂y/∂y0
    is conserved to rounding. κ_i needs no division and so serves stages with b_i = 0 too, for which the paper has a
    case of its own. An output inside a step adds its weights b_i(θ) to those of y_{n+1}.
    Matsubara, Miyatake & Yaguchi 2021, *Symplectic adjoint method for exact gradient of neural ODE with minimal
    memory*; the weights as in Sanz-Serna 2016, *Symplectic Runge-Kutta schemes for adjoint equations, automatic
    differentiation, optimal control, and more*.

    Equal to ``direct`` to rounding, like ``checkpointed``, with which it shares its demands on f, and to which it is an
    alternative where the activations of f are much larger than the state: it keeps those of one call of f instead of
    those of all stages of a step, and calls f twice a stage on the way back instead of once. With ``batch="rows"`` the
    rows are solved one after the other.

    Attributes:
        budget: how many states are kept, as in :class:`~odekit.gradients.checkpointed.Checkpointed`.

    Raises:
        GradientError: the solver is no explicit Runge-Kutta method.
    """

    name = "symplectic"
    exact = True
    twice = True
    memory = "steps (or budget) × state + stages × state + activations of one f"

    def solve(self, problem: Problem, solver: ODESolver, control: StepControl) -> Outcome:
        solver = uncompiled(solver)
        _check(solver)
        return self.taped(_Tape, problem, solver, control)

    def solve_rows(self, problem: RowProblem, solver: ODESolver, control: StepControl) -> RowOutcome:
        solver = uncompiled(solver)
        _check(solver)
        if not torch.is_grad_enabled():
            return Direct().solve_rows(problem, solver, control)
        return solve_one_by_one(problem, self, solver, control)


def _check(solver: ODESolver) -> None:
    if not isinstance(solver, ExplicitRungeKutta):
        raise GradientError(
            f"gradient='symplectic' goes back through the stages of an explicit Runge-Kutta method, and solver "
            f"{solver.name!r} is none; choose one, such as 'dopri5', or gradient='checkpointed'"
        )


class _Sweep(Sweep):
    """Steps taken again without the activations of f, which come back one call at a time."""

    def __init__(
        self, problem: Problem, dependencies: Dependencies, solver: ODESolver, method: str, time_gradient: bool
    ) -> None:
        super().__init__(problem, dependencies, solver, method, time_gradient)
        inputs = self.inputs[1:] if self.timed else self.inputs
        self.field = Recomputed(self.field, dependencies, inputs, method)


class _Tape(StepsTape):
    method = "symplectic"
    sweep = _Sweep
    activations = 0
