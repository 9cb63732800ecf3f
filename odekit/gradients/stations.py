"""Where a loss touches a trajectory, and what it sends there: the stations between which adjoints are solved back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from odekit.core.field import Field
from odekit.core.integrate import around
from odekit.core.outputs import Slot
from odekit.core.problem import Problem


class Stations:
    """The distinct times of the outputs and of the end, and how a loss depends on the states and the times there.

    Attributes:
        times: host times, in the order of the solve.
        states: the states there.
        last: the number of the last one.
        grad_ts: the gradient with respect to the caller's times so far; None if it is not wanted.
    """

    def __init__(
        self, problem: Problem, field: Field, slots: Sequence[Slot], reached: float, outputs: Sequence[Tensor],
        cotangents: Sequence[Tensor], time_gradient: bool,
    ) -> None:  # fmt: skip
        ys, y1 = outputs
        self.problem, self.field, self.slots = problem, field, slots
        self.grad_ys, self.grad_y1 = cotangents
        self.times, self.states = [slots[0].t], [ys[0]]
        self._outputs = [[0]]
        for k in range(1, len(slots)):
            if slots[k].t == self.times[-1]:
                self._outputs[-1].append(k)
            else:
                self._add(slots[k].t, ys[k], [k])
        if self.times[-1] != reached:
            self._add(reached, y1, [])
        self.last = len(self.times) - 1
        self.grad_ts = torch.zeros_like(problem.ts) if time_gradient else None
        self._slopes: dict[int, Tensor] = {}

    def _add(self, t: float, state: Tensor, outputs: list[int]) -> None:
        self.times.append(t)
        self.states.append(state)
        self._outputs.append(outputs)

    def end(self) -> Tensor:
        """The loss's derivative with respect to the state at the end."""
        total, outputs = self.arriving(self.last), self._outputs[self.last]
        self._move(self.last, self.grad_y1, self.slots[outputs[-1]] if outputs else None)
        return total + self.grad_y1

    def arriving(self, at: int) -> Tensor:
        """The loss's own derivative with respect to the outputs at a station; the initial state itself is none."""
        total = torch.zeros_like(self.grad_y1)
        for k in self._outputs[at][at == 0 :]:
            total = total + self.grad_ys[k]
            self._move(at, self.grad_ys[k], self.slots[k])
        return total

    def start(self, adjoint: Tensor) -> Tensor:
        """The gradient with respect to the initial state, from the adjoint there."""
        self._move(0, -adjoint, self.slots[0])
        return adjoint + self.grad_ys[0]

    def _move(self, at: int, cotangent: Tensor, slot: Slot | None) -> None:
        """The state at a station moves by f as the output's time moves, and with it as the caller's times move."""
        if self.grad_ts is None:
            return
        moved = (cotangent.conj() * self._slope(at)).real.sum().to(self.grad_ts)
        if slot is not None and slot.index is not None:
            self.grad_ts[slot.index] += moved
            return
        of_first, of_last = self.problem.clock.shares(self.times[at])  # a time in between, moved by both ends
        self.grad_ts[0] += of_first * moved
        if of_last:
            self.grad_ts[-1] += of_last * moved

    def _slope(self, at: int) -> Tensor:
        if at not in self._slopes:
            beside = self.times[at - 1] if at else self.times[min(1, self.last)]
            field = around(self.field, self.problem.course.stops.section(self.times[at], beside))
            with torch.no_grad():
                self._slopes[at] = field(self.times[at], self.states[at])
        return self._slopes[at]
