"""Cotangents on their way back through accepted steps that are taken again one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optree
import torch
from torch import Tensor

from odekit.core.accepted import Accepted, Passage
from odekit.core.field import Field
from odekit.core.outputs import at_rest, states_in
from odekit.core.problem import Problem
from odekit.core.protocols import ODESolver
from odekit.core.reversible import UndoingSolver
from odekit.gradients.captured import Dependencies
from odekit.gradients.keeping import State
from odekit.gradients.products import added, detached, flowing, vjp
from odekit.gradients.replay import replay


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

    def through(self, *piece: Accepted) -> list[Tensor]:
        """Go back through a step, or several that go on from each other, in the order of time.

        Returns the states at the end and at the outputs in it, with their graph.
        """
        first = last = replay(self.field, self.solver, self.clock, piece[0])
        states = list(first.states)
        for step in piece[1:]:
            last = replay(self.field, self.solver, self.clock, step, last)
            states += last.states
        start, end = dict(zip(first.places, first.inputs[1:], strict=True)), last.carry
        self._back(first.inputs[0], start, last.y1, end, states, piece[0].first)
        self.steps += len(piece)
        return [last.y1, *states]

    def undo(self, solver: UndoingSolver, passage: Passage, y1: Tensor, carry: Any) -> tuple[State, list[Tensor]]:
        """Go back through a step of which the end is known alone.

        Returns the state and the carry at its start, and the states at the outputs in it.
        """
        field = self.field if passage.section is None else self.field.confined(passage.section)
        with torch.enable_grad():
            undone = solver.undo(field, self.clock(passage.t0), self.clock(passage.t1), y1, carry)
            step, states = states_in(field, solver, undone.step, passage.t1, self.clock, passage.slots)
        start, end = flowing(undone.carry0), flowing(undone.step.carry)
        self._back(step.y0, start, step.y1, end, states, passage.first, undone.links)
        self.steps += 1
        return (step.y0.detach(), optree.tree_map(detached, undone.carry0, none_is_leaf=True)), states

    def _back(
        self,
        y0: Tensor,
        start: dict[Any, Tensor],
        y1: Tensor,
        end: dict[Any, Tensor],
        states: list[Tensor],
        first: int,
        links: Sequence[tuple[Tensor, Tensor]] = (),
    ) -> None:
        """From the end of a piece, and the outputs in it that come ``first`` and after, to its start."""
        leaves = [y0, *start.values(), *(inner for inner, _ in links), *self.inputs]
        reached = [y1, *end.values(), *states]
        self.dependencies.check_none_missed([*reached, *(meant for _, meant in links)], leaves, self.method)
        arriving = [
            self.adjoint,
            *(self._carried.get(place) for place in end),
            *self.cotangents[first : first + len(states)],
        ]
        grads = vjp(reached, arriving, leaves)
        carried = 1 + len(start)
        for k, (_, meant) in enumerate(links, start=carried):
            grads = list(map(added, grads, vjp([meant], [grads[k]], leaves)))
        self.adjoint = torch.zeros_like(y0) if grads[0] is None else grads[0]
        self._carried = dict(zip(start, grads[1:carried], strict=True))
        self.add(grads[carried + len(links) :])

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
