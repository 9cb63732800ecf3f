"""The exact gradient from accepted states, or from some of them: every step is taken again when its turn comes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from odekit.core.accepted import Passage
from odekit.core.problem import Problem
from odekit.core.protocols import GradientMethod, ODESolver, Outcome, StepControl
from odekit.core.rows.answer import RowOutcome
from odekit.core.rows.one_by_one import solve_one_by_one
from odekit.core.rows.problem import RowProblem
from odekit.core.solution import Stats
from odekit.gradients import rows_checkpointed
from odekit.gradients.captured import Dependencies
from odekit.gradients.forwards import retraced, unrecorded
from odekit.gradients.keeping import Every, State, keeping
from odekit.gradients.pieces import ACTIVATIONS, Pieces
from odekit.gradients.replay import retake
from odekit.gradients.sweep import Sweep
from odekit.gradients.tape import Tape, record


def _known(instance: Any, attribute: Any, value: Any) -> None:
    keeping(value)


@attrs.frozen
class Checkpointed(GradientMethod):
    """Replays each accepted step, from the last to the first, and backpropagates through it alone.

    The gradient is that of the computed numbers: equal to ``direct`` to rounding, whatever the tolerance, because the
    replayed steps are the very same ones. Kept are the states at the accepted steps, or with a ``budget`` some of them;
    rejected steps and the search for step sizes cost nothing. Zhuang et al. 2020, *Adaptive checkpoint adjoint*,
    Algorithm 2, with the steps themselves differentiated instead of a continuous adjoint between the checkpoints.

    Where the activations of f are small, several steps are replayed and gone back through at once, as many as take
    4 MiB; with a ``budget`` always one.

    f must give the same numbers when it is called again: randomness such as dropout has to be drawn before the solve
    and passed in through ``args``.

    Attributes:
        budget: how many states are kept. None: one for every accepted step. A number K >= 1: at most K, the initial one
            included, whatever the number of steps; those in between are computed again, a step at most t times if there
            are no more than binomial(K + t, t) steps (:class:`~odekit.gradients.keeping.AtMost`). ``"sqrt"``: in number
            like the square root of that of the steps (:class:`~odekit.gradients.keeping.SquareRoot`). With
            ``batch="rows"`` and a budget the rows are solved one after the other.

    Raises:
        InputError: ``budget`` is none of these.
    """

    budget: int | str | None = attrs.field(default=None, validator=_known)

    name = "checkpointed"
    exact = True
    memory = "steps (or budget) × state + one step's activations (or those of several, within 4 MiB)"

    def solve(self, problem: Problem, solver: ODESolver, control: StepControl) -> Outcome:
        return self.taped(StepsTape, problem, solver, control)

    def taped(self, kind: type[StepsTape], problem: Problem, solver: ODESolver, control: StepControl) -> Outcome:
        """Solve, with a tape of this kind to go back by."""
        if not torch.is_grad_enabled():
            return unrecorded(problem, solver, control)
        tape = kind(problem, solver, control, self.budget)
        ys, y1 = record(tape)
        return attrs.evolve(tape.outcomes.pop(), ys=ys, y1=y1)

    def solve_rows(self, problem: RowProblem, solver: ODESolver, control: StepControl) -> RowOutcome:
        if self.budget is not None and torch.is_grad_enabled():
            return solve_one_by_one(problem, self, solver, control)
        return rows_checkpointed.solve(problem, solver, control)


class StepsTape(Tape):
    """The accepted steps from the first to the one in which the answer ends.

    Class attributes:
        sweep: what goes back through them.
        activations: bytes of them that several steps may have that are gone back through at once; 0 for one at a time.

    Attributes:
        ends_inside: the number of the output that the answer ends at, if it lies inside the last step because what
            followed was not finite.
    """

    method = "checkpointed"
    sweep: ClassVar[type[Sweep]] = Sweep
    activations: ClassVar[int] = ACTIVATIONS

    def __init__(self, problem: Problem, solver: ODESolver, control: StepControl, budget: int | str | None) -> None:
        self.dependencies = Dependencies(problem)
        self.problem = problem.sparing() if self.dependencies.needed else problem
        self.y0, self.ts = problem.y0, problem.ts
        self.solver, self.control = solver, control
        self.kept = keeping(budget)
        self.ends_inside: int | None = None
        self.outcomes: list[Outcome] = []
        self.stats = Stats()

    def solve(self) -> tuple[Tensor, Tensor]:
        keep = self.kept.add if self.dependencies.needed else None
        outcome = unrecorded(self.problem, self.solver, self.control, self.dependencies.f0, keep)
        self.outcomes.append(outcome)
        self.stats = outcome.stats
        passages, reached = self.kept.passages, len(outcome.slots)
        if passages and passages[-1].t1 != outcome.t1:
            self.kept.cut(sum(passage.first < reached for passage in passages))
        if passages and passages[-1].t1 != outcome.t1:
            last = passages[-1]
            passages[-1] = attrs.evolve(last, slots=last.slots[: reached - last.first])
            self.ends_inside = reached - 1
        return outcome.ys, outcome.y1

    def pull(
        self, outputs: Sequence[Tensor], grad_ys: Tensor, grad_y1: Tensor, time_gradient: bool
    ) -> list[Tensor | None]:
        sweep = self.sweep(self.problem, self.dependencies, self.solver, self.method, time_gradient)
        sweep.begin(grad_ys, grad_y1, self.ends_inside)

        def advance(passage: Passage, state: State, following: Passage) -> State:
            self.stats.steps_backward += 1
            return retake(sweep.field, sweep.solver, self.control.adaptive, passage, state, following)

        pieces = Pieces(self.solver, self.activations if isinstance(self.kept, Every) else 0)
        for piece in pieces.of(self.kept.backwards(advance)):
            pieces.weigh(sweep.through(*piece), sweep.inputs)
        self.stats.nfe_backward += sweep.field.nfe
        self.stats.steps_backward += sweep.steps
        return sweep.gradients()

    def retrace(self, y0: Tensor, ts: Tensor, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        return retraced(self.problem, self.dependencies, self.solver, self.control, self.stats, y0, ts, inputs)
