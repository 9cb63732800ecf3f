"""Forward sensitivities: the derivatives of the state travel with it, and nothing is left to be done backwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from odekit.core.problem import Problem
from odekit.core.protocols import GradientMethod, ODESolver, Outcome, StepControl
from odekit.core.rows.answer import RowOutcome
from odekit.core.rows.one_by_one import solve_one_by_one
from odekit.core.rows.problem import RowProblem
from odekit.errors import GradientError, InputError
from odekit.gradients.captured import Dependencies
from odekit.gradients.direct import Direct
from odekit.gradients.forward_field import Moved, used_by
from odekit.gradients.forward_step import Tangents, count
from odekit.gradients.forwards import retraced, unrecorded
from odekit.gradients.products import added
from odekit.gradients.tape import Tape, record


def _at_least_one(instance: Any, attribute: Any, value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InputError(f"{attribute.name}={value!r}: expected an integer >= 1")


@attrs.frozen
class Forward(GradientMethod):
    """Carries S = ∂y/∂p forwards with the state: for few parameters and any number of outputs.

    Every accepted step is differentiated in all P directions at once, as it is taken: S_{n+1} is the derivative of the
    step's own operations, so that it solves dS/dt = (∂f/∂y) S + ∂f/∂p by the same method on the same steps. Step sizes
    are decided by the error of y alone. The gradient is equal to ``direct`` to rounding, for every solver, implicit
    ones included. Internal differentiation: Bock 1981, *Numerical treatment of inverse problems in chemical reaction
    kinetics*; Hairer, Nørsett & Wanner, *Solving ODEs I*, II.6.

    p are the numbers in y0 if it requires grad, those in the parameters of f and in ``args`` that require grad, and the
    output times. ``backward()`` contracts S at the outputs with what arrives there, any number of times. Work and
    memory grow with P. f must be differentiable in forward mode, so it may not call autograd itself. With
    ``batch="rows"`` the rows are solved one after the other.

    Attributes:
        max_directions: with more than so many, the solve is refused.
        chunk: how many directions go through a step together; None for all of them.

    Raises:
        InputError: one of these is no integer >= 1.
        GradientError: there are too many directions, or f cannot be differentiated so.
    """

    max_directions: int = attrs.field(default=1024, validator=[attrs.validators.instance_of(int), _at_least_one])
    chunk: int | None = attrs.field(default=None, validator=_at_least_one)

    name = "forward"
    exact = True
    twice = True
    memory = "output times × parameters × state"

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
    """The derivatives at the outputs.

    Attributes:
        at_outputs: ``[N, P, ...]``, at the outputs.
        at_end: ``[P, ...]``, where the answer ends; None if that is the last output.
        between: of each output, the number of its time if that is neither the first nor the last one.
    """

    method = "forward"

    def __init__(self, problem: Problem, solver: ODESolver, control: StepControl, how: Forward) -> None:
        self.dependencies = Dependencies(problem)
        self.problem = problem.sparing() if self.dependencies.needed else problem
        self.y0, self.ts = problem.y0, problem.ts
        self.solver, self.control, self.how = solver, control, how
        self.timed = problem.clock.differentiable
        self.outcomes: list[Outcome] = []
        self.at_end: Tensor | None = None

    def solve(self) -> tuple[Tensor, Tensor]:
        problem, needed = self.problem, self.dependencies.needed
        if not needed:
            outcome = unrecorded(problem, self.solver, self.control, self.dependencies.f0)
            self.outcomes.append(outcome)
            return outcome.ys, outcome.y1
        field = Moved(problem.field, used_by(problem))
        self._check_size(field)
        tangents = Tangents(problem, self.timed, self.dependencies, self.solver, field, self.how.chunk)
        outcome = unrecorded(problem, self.solver, self.control, self.dependencies.f0, tangents.through)
        if problem.times[0] == problem.times[-1]:
            tangents.rest()
        self.outcomes.append(outcome)
        self.stats = outcome.stats
        self.field, self.places = field, tangents.directions.places
        self.at_outputs = torch.stack(tangents.outputs[: len(outcome.slots)])
        self.at_end = tangents.y if tangents.t == outcome.t1 else None
        inner = range(1, len(problem.times) - 1)
        self.between = [slot.index if slot.index in inner else None for slot in outcome.slots]
        return outcome.ys, outcome.y1

    def _check_size(self, field: Moved) -> None:
        y0, most = self.y0, self.how.max_directions
        total = count(y0, field.used, self.timed)
        if total > most:
            own = y0.numel() if y0.requires_grad else 0
            raise GradientError(
                f"gradient='forward' would carry {total} derivatives of the state ({own} numbers in y0, "
                f"{sum(x.numel() for x in field.used)} in what f depends on), more than max_directions={most}; use "
                f"gradient='checkpointed', or gradient=Forward(max_directions={total}) if that is what you want"
            )

    def pull(
        self, outputs: Sequence[Tensor], grad_ys: Tensor, grad_y1: Tensor, time_gradient: bool
    ) -> list[Tensor | None]:
        if self.at_end is None:
            grad_ys = torch.cat([grad_ys[:-1], grad_ys[-1:] + grad_y1])
        each = _contracted(self.at_outputs, grad_ys)
        total = each.sum(0)
        if self.at_end is not None:
            total = total + _contracted(self.at_end[None], grad_y1[None])[0]
        by_y0 = self._part(total, "y0", self.y0) if self.y0.requires_grad else None
        return [by_y0, self._by_times(each, total) if time_gradient else None, *self._by_tensors(total)]

    def _part(self, total: Tensor, key: Any, like: Tensor) -> Tensor:
        part = total[self.places[key]]
        if like.is_complex():
            part = torch.complex(*part.reshape(2, -1))
        return part.reshape(like.shape).to(like)

    def _by_times(self, each: Tensor, total: Tensor) -> Tensor:
        grad = torch.zeros_like(self.ts)
        if "times" in self.places:
            first, last, inner = range(*self.places["times"].indices(len(total)))
            grad[0], grad[-1] = total[first], total[last]
            for n, k in enumerate(self.between):
                if k is not None:
                    grad[k] += each[n, inner]
        return grad

    def _by_tensors(self, total: Tensor) -> list[Tensor | None]:
        """Of what f used, those that others were computed from get their gradient by way of these."""
        wanted = self.dependencies.tensors
        first = {id(x): k for k, x in reversed(list(enumerate(wanted)))}
        grads: list[Tensor | None] = [None] * len(wanted)
        leaves = [x for k, x in enumerate(wanted) if x.is_leaf and first[id(x)] == k]
        for i, x in enumerate(self.field.used):
            if id(x) not in self.field.touched:
                continue
            grad = self._part(total, i, x)
            if id(x) in first:
                grads[first[id(x)]] = added(grads[first[id(x)]], grad)
                continue
            self.dependencies.check_none_missed([x], leaves, self.method)
            for leaf, part in zip(
                leaves, torch.autograd.grad(x, leaves, grad, allow_unused=True, retain_graph=True), strict=True
            ):
                grads[first[id(leaf)]] = added(grads[first[id(leaf)]], part)
        return grads

    def retrace(self, y0: Tensor, ts: Tensor, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        return retraced(self.problem, self.dependencies, self.solver, self.control, self.stats, y0, ts, inputs)


def _contracted(derivatives: Tensor, grads: Tensor) -> Tensor:
    """Re Σ g* ∂y/∂p for derivatives ``[N, P, ...]`` and gradients ``[N, ...]``: real, ``[N, P]``."""
    n, p = derivatives.shape[:2]
    flat = derivatives.reshape(n, p, -1) if derivatives.numel() else derivatives.new_zeros(n, p, 0)
    return torch.einsum("npk,nk->np", flat, grads.reshape(n, -1).conj()).real
