"""Cotangents on their way back through accepted steps that are taken again one by one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from odekit.core.field import Field
from odekit.core.integrate import Accepted
from odekit.core.outputs import at_rest
from odekit.core.problem import Problem
from odekit.core.protocols import ODESolver
from odekit.gradients.captured import Dependencies
from odekit.gradients.products import added, vjp
from odekit.gradients.replay import Replayed, replay


class Sweep:
    """One backward pass. Tell it the steps, from the last to the first, then ask for the gradients.

    Attributes:
        field: f, with counters of its own, as a function of ``inputs``.
        inputs: what is differentiated with respect to beside the states: the times, if that is wanted, and whatever f
            depends on.
        adjoint: dL/dy at the end of the steps that are still to come.
    """

    def __init__(
        self, problem: Problem, dependencies: Dependencies, solver: ODESolver, method: str, time_gradient: bool
    ) -> None:
        self.problem, self.dependencies, self.method = problem, dependencies, method
        self.solver = solver.prepared(problem.tolerance)
        inputs = dependencies.inputs()
        self.field: Field = dependencies.field(problem, inputs)
        ts = problem.ts.detach().requires_grad_() if time_gradient else None
        with torch.enable_grad():
            self.clock = problem.clock_of(ts)
        self.inputs = inputs if ts is None else [ts, *inputs]
        self.timed = ts is not None
        self.sums: list[Tensor | None] = [None] * len(self.inputs)
        self.steps = 0
        self._carried: dict[Any, Tensor | None] = {}

    def begin(self, grad_ys: Tensor, grad_y1: Tensor, ends_inside: int | None) -> None:
        """The cotangents of the answer.

        ``ends_inside`` is the number of the output that the answer ends at, should that lie inside the last step.
        """
        self.cotangents, self.adjoint = list(grad_ys), grad_y1
        if ends_inside is not None:
            self.cotangents[ends_inside] = self.cotangents[ends_inside] + grad_y1
            self.adjoint = torch.zeros_like(grad_y1)

    def through(self, step: Accepted) -> Replayed:
        """Go back through a step. Returns what it was when taken again."""
        replayed = replay(self.field, self.solver, self.clock, step)
        leaves = [*replayed.inputs, *self.inputs]
        self.dependencies.check_none_missed([replayed.y1, *replayed.states], leaves, self.method)
        outputs = [replayed.y1, *replayed.carry.values(), *replayed.states]
        arriving = [
            self.adjoint,
            *(self._carried.get(place) for place in replayed.carry),
            *self.cotangents[step.first : step.first + len(step.slots)],
        ]
        grads = vjp(outputs, arriving, leaves)
        self.adjoint = torch.zeros_like(step.y0) if grads[0] is None else grads[0]
        self._carried = dict(zip(replayed.places, grads[1 : len(replayed.inputs)], strict=True))
        self.add(grads[len(replayed.inputs) :])
        self.steps += 1
        return replayed

    def add(self, grads: list[Tensor | None]) -> None:
        """Add to the gradients with respect to ``inputs``."""
        self.sums = [added(total, grad) for total, grad in zip(self.sums, grads, strict=True)]

    def gradients(self) -> list[Tensor | None]:
        """The gradients with respect to y0, the times (None unless wanted) and what f depends on."""
        if self.problem.times[0] == self.problem.times[-1]:
            self._through_rest()
        else:
            self.adjoint = self.adjoint + self.cotangents[0]
        return [self.adjoint, *([] if self.timed else [None]), *self.sums]

    def _through_rest(self) -> None:
        with torch.enable_grad():
            y0 = self.problem.y0.detach().requires_grad_()
            states = at_rest(self.field, y0, self.clock)
        grads = vjp([*states, states[-1]], [*self.cotangents, self.adjoint], [y0, *self.inputs])
        self.adjoint = torch.zeros_like(self.adjoint) if grads[0] is None else grads[0]
        self.sums = grads[1:]
