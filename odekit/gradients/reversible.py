"""The exact gradient without stored states: every step is taken back, and then taken again with gradients."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from odekit.core.accepted import Accepted, Passage
from odekit.core.integrate import around
from odekit.core.problem import Problem
from odekit.core.protocols import GradientMethod, ODESolver, Outcome, StepControl
from odekit.core.reversible import ReversibleSolver, UndoingSolver
from odekit.core.reversible_pair import Reversible, coupling_in_range
from odekit.core.rows.answer import RowOutcome
from odekit.core.rows.one_by_one import solve_one_by_one
from odekit.core.rows.problem import RowProblem
from odekit.core.runge_kutta import ExplicitRungeKutta
from odekit.core.solution import Stats
from odekit.errors import OptionError, ReversalDriftWarning
from odekit.gradients.captured import Dependencies
from odekit.gradients.direct import Direct
from odekit.gradients.forwards import retraced, unrecorded
from odekit.gradients.keeping import State
from odekit.gradients.pieces import ACTIVATIONS, Pieces
from odekit.gradients.replay import retake
from odekit.gradients.sweep import Sweep
from odekit.gradients.tape import Tape, record


@attrs.frozen
class Reversal(GradientMethod):
    """Takes each accepted step back, from the last to the first, and backpropagates through it alone.

    The gradient is that of the computed numbers, equal to ``direct`` to rounding, and nothing is kept of the steps but
    their times: the state at the start of a step is computed from the one at its end. At a discontinuity of f, where
    what the solver remembers begins anew, two states are kept. Kidger, Foster, Li & Lyons 2021, *Efficient and accurate
    gradients for neural SDEs*, Algorithm 2; McCallum & Foster 2024, *Efficient, accurate and stable gradients for
    neural ODEs*, Section 3.

    That needs a solver whose steps can be taken back. An explicit Runge-Kutta method becomes one:
    ``gradient="reversible"`` solves with :class:`~odekit.core.reversible_pair.Reversible` of it, whose answer differs
    from that of the method itself by as much as either is wrong, and which calls f twice as often.

    Rounding errors grow on the way back as the solution contracts on its way forward, and those of a ``Reversible``
    also as it expands. States that are known are compared with those that are found again: the initial one, those at
    discontinuities, and the outputs. If half of the digits are lost, there is a
    :class:`~odekit.errors.ReversalDriftWarning`. With ``batch="rows"`` the rows are solved one after the other.

    Attributes:
        coupling: of the ``Reversible`` that an explicit Runge-Kutta method is made into, in (0, 1].

    Raises:
        InputError: ``coupling`` is not.
    """

    coupling: float = attrs.field(default=0.999, validator=coupling_in_range)

    name = "reversible"
    exact = True
    dissects = True
    memory = "output times × state + one step's activations (or those of several, within 1 MiB)"

    def solve(self, problem: Problem, solver: ODESolver, control: StepControl) -> Outcome:
        solver = self._reversible(solver)
        if not torch.is_grad_enabled():
            return Direct().solve(problem, solver, control)
        tape = _Tape(problem, solver, control)
        ys, y1 = record(tape)
        return attrs.evolve(tape.outcomes.pop(), ys=ys, y1=y1)

    def solve_rows(self, problem: RowProblem, solver: ODESolver, control: StepControl) -> RowOutcome:
        if torch.is_grad_enabled():
            return solve_one_by_one(problem, self, solver, control)
        return Direct().solve_rows(problem, self._reversible(solver), control)

    def _reversible(self, solver: ODESolver) -> ReversibleSolver:
        if isinstance(solver, ReversibleSolver):
            return solver
        if isinstance(solver, ExplicitRungeKutta):
            return Reversible(solver, self.coupling)
        raise OptionError(
            f"solver {solver.name!r} cannot take its steps back, and gradient='reversible' has to; use a reversible "
            "solver such as 'alf', an explicit Runge-Kutta method such as 'dopri5', which is made reversible, or "
            "gradient='checkpointed'"
        )


class _Tape(Tape):
    """The passages of all steps, and the few steps whose start cannot be found by taking steps back.

    Attributes:
        passages: of the accepted steps, in order.
        begins: by the number of the first step of a stretch between two discontinuities, the state there.
        kept: by their numbers, the last step of every stretch, and the last one with an output: what follows that may
            have broken.
        told: the number of the last step with an output, -1 if there is none.
        largest: how large every component has been.
        ends_inside: the number of the output that the answer ends at, if it lies inside the last step.
    """

    method = "reversible"
    needs_outputs = True

    def __init__(self, problem: Problem, solver: ReversibleSolver, control: StepControl) -> None:
        self.dependencies = Dependencies(problem)
        self.problem = problem.sparing() if self.dependencies.needed else problem
        self.y0, self.ts = problem.y0, problem.ts
        self.solver, self.control = solver.prepared(problem.tolerance), control
        self.passages: list[Passage] = []
        self.begins: dict[int, Tensor] = {}
        self.kept: dict[int, Accepted] = {}
        self.told = -1
        self.largest = problem.y0.detach().abs()
        self.ends_inside: int | None = None
        self.outcomes: list[Outcome] = []
        self.stats = Stats()

    def solve(self) -> tuple[Tensor, Tensor]:
        problem = self.problem
        keep = self._add if self.dependencies.needed else None
        outcome = unrecorded(problem, self.solver, self.control, self.dependencies.f0, keep)
        self.outcomes.append(outcome)
        self.stats = outcome.stats
        if self.passages and self.passages[-1].t1 != outcome.t1:
            self._end_with_output(len(outcome.slots) - 1, outcome.t1)
        return outcome.ys, outcome.y1

    def _add(self, step: Accepted) -> None:
        number, told = len(self.passages), self.told
        self.passages.append(step.passage)
        self.kept[number] = step
        self.largest = torch.maximum(self.largest, step.y0.abs())
        if step.fresh:
            self.begins[number] = step.y0
        if step.slots:
            self.told = number
        for old in (number - 1, told):
            if old != self.told and old + 1 not in self.begins:
                self.kept.pop(old, None)

    def _end_with_output(self, output: int, t: float) -> None:
        """Forget what came after this output at time ``t``, which the answer ends at."""
        count = sum(passage.first <= output for passage in self.passages)
        del self.passages[count:]
        self.begins = {number: y0 for number, y0 in self.begins.items() if number < count}
        self.kept = {number: step for number, step in self.kept.items() if number < count}
        self.told = last = count - 1
        self.largest = self.y0.detach().abs()  # what came after may not be finite
        if not count:
            return
        if last not in self.kept:
            self.kept[last] = self._again(last)
        if self.passages[last].t1 != t:
            slots = self.passages[last].slots[: output + 1 - self.passages[last].first]
            self.passages[last] = attrs.evolve(self.passages[last], slots=slots)
            self.kept[last] = attrs.evolve(self.kept[last], slots=slots)
            self.ends_inside = output

    def _again(self, number: int) -> Accepted:
        """The step of this number, from the beginning of its stretch."""
        field, solver = self.problem.field.fork(), self.solver
        first = max(begin for begin in self.begins if begin <= number)
        state: State = self.begins[first], None
        for k in range(first, number):
            state = retake(field, solver, self.control.adaptive, self.passages[k], state, self.passages[k + 1])
        self.stats.nfe += field.nfe
        return self.passages[number].starting(*state)

    def pull(
        self, outputs: Sequence[Tensor], grad_ys: Tensor, grad_y1: Tensor, time_gradient: bool
    ) -> list[Tensor | None]:
        sweep = Sweep(self.problem, self.dependencies, self.solver, self.method, time_gradient)
        sweep.begin(grad_ys, grad_y1, self.ends_inside)
        drift = _Drift(torch.maximum(self.largest, outputs[0].abs().amax(0)))
        count = len(self.passages)
        if self.told + 1 < count and not bool(grad_y1.any()):  # nothing after the last output matters to the loss
            count = self.told + 1
        for passage, states in self._through(count, sweep, drift):
            for k, y in enumerate(states, start=passage.first):
                drift.compare(y, outputs[0][k], passage.slots[k - passage.first].t)
        drift.warn()
        self.stats.nfe_backward += sweep.field.nfe
        self.stats.steps_backward += sweep.steps
        return sweep.gradients()

    def _through(self, count: int, sweep: Sweep, drift: _Drift) -> Iterator[tuple[Passage, Sequence[Tensor]]]:
        """Go back through the first ``count`` steps; of each the states at its outputs."""
        if isinstance(self.solver, UndoingSolver):
            yield from self._undone(self.solver, count, sweep, drift)
            return
        pieces = Pieces(self.solver, ACTIVATIONS // 4)  # the states at the starts of the steps are there beside them
        for piece in pieces.of(self._taken_again(count, sweep, drift)):
            reached = sweep.through(*piece)
            pieces.weigh(reached, sweep.inputs)
            states = reached[1:]
            for step in piece:
                yield step, states[step.first - piece[0].first :][: len(step.slots)]

    def _taken_again(self, count: int, sweep: Sweep, drift: _Drift) -> Iterator[Accepted]:
        """The steps from the last to the first, with the states at their starts, found by taking them back."""
        state: State = self.y0, None
        for number in range(count - 1, -1, -1):
            passage, step = self.passages[number], self._known(number)
            if number + 1 < count and not self.passages[number + 1].fresh:
                state = self._taken_back(sweep, passage, *state)
                if step is not None:
                    drift.compare(state[0], step.y0, passage.t0)
            step = passage.starting(*state) if step is None else step
            yield step
            state = step.y0, step.carry

    def _undone(
        self, solver: UndoingSolver, count: int, sweep: Sweep, drift: _Drift
    ) -> Iterator[tuple[Passage, Sequence[Tensor]]]:
        """The same for a solver that needs no second evaluation of f for the graph of a step."""
        state: State = self.y0, None
        for number in range(count - 1, -1, -1):
            passage, step = self.passages[number], self._known(number)
            if step is None:
                state, states = sweep.undo(solver, passage, *state)
            else:
                if number + 1 < count and not self.passages[number + 1].fresh:
                    found, _ = self._taken_back(sweep, passage, *state)
                    drift.compare(found, step.y0, passage.t0)
                states = sweep.through(step)[1:]
                state = step.y0, step.carry
            yield passage, states

    def _known(self, number: int) -> Accepted | None:
        """The step of this number if the state at its start was kept."""
        passage = self.passages[number]
        return passage.starting(self.begins[number], None) if passage.fresh else self.kept.get(number)

    def _taken_back(self, sweep: Sweep, passage: Passage, y1: Tensor, carry: Any) -> State:
        """What the step was taken from that ended there."""
        self.stats.steps_backward += 1
        with torch.no_grad():
            return self.solver.reverse(around(sweep.field, passage.section), passage.t0, passage.t1, y1, carry)

    def retrace(self, y0: Tensor, ts: Tensor, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        return retraced(self.problem, self.dependencies, self.solver, self.control, self.stats, y0, ts, inputs)


class _Drift:
    """How far the states that are found on the way back are from those of the way forward.

    Allowed is half of the digits: of a component, and of the root mean square over all of them; and a hundred times the
    rounding of the largest values on the way forward.
    """

    def __init__(self, largest: Tensor) -> None:
        self.eps = torch.finfo(largest.dtype).eps
        self.rounding = 100 * self.eps * _size(largest) + torch.finfo(largest.dtype).tiny
        self.found: list[tuple[float, Tensor]] = []

    def compare(self, found: Tensor, stored: Tensor, t: float) -> None:
        """Compare two states at time ``t``."""
        if found.numel():
            allowed = math.sqrt(self.eps) * _size(stored.abs()) + self.rounding
            self.found.append((t, ((found.detach() - stored).abs() / allowed).amax()))

    def warn(self) -> None:
        """Warn if more than that is lost somewhere, and say where it is so first on the way back."""
        if not self.found:
            return
        off = torch.stack([drift for _, drift in self.found]).tolist()
        lost = next((k for k, drift in enumerate(off) if not drift <= 1), None)
        if lost is None:
            return
        warnings.warn(
            f"taking the steps back missed the state at t = {self.found[lost][0]:g} by {off[lost]:.2g} times what "
            f"would leave half of its digits (rounding is {self.eps:.1g}), so this reversible gradient is not to be "
            "trusted; the solution contracts or expands too strongly, or took too many steps, to be found again: use "
            "gradient='checkpointed'",
            ReversalDriftWarning,
            stacklevel=2,
        )


def _size(y: Tensor) -> Tensor:
    """Of every component: its own, and the root mean square of all of them."""
    return y + torch.linalg.vector_norm(y) / math.sqrt(max(y.numel(), 1))
