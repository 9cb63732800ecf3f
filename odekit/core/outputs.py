"""Which states of an accepted step are outputs, and collecting them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from odekit.core import lanes
from odekit.core.events import Hit
from odekit.core.protocols import ODESolver, Step, VectorField
from odekit.core.times import Clock, Time, coefficient


@attrs.frozen(eq=False)
class Slot:
    """One output of a solve.

    Attributes:
        t: its host time.
        index: which of the caller's output times it is; None for the end of a step, or for an event.
        hit: the event that it is.
    """

    t: float
    index: int | None = None
    hit: Hit | None = None

    def time(self, clock: Clock) -> Time:
        """The time that steps compute with."""
        return clock(self.t) if self.index is None else clock.output(self.index)


class Outputs:
    """Collects the states at the output times, and what else is asked for, as steps pass them.

    Attributes:
        slots, taken: the outputs reached so far, and the states there.
    """

    def __init__(self, clock: Clock, y0: Tensor, every_step: bool) -> None:
        self.clock = clock
        self.every_step = every_step
        self.direction = math.copysign(1.0, clock.times[-1] - clock.times[0])
        self.planned = 1
        self.slots = [Slot(clock.times[0], 0)]
        self.taken = [y0]

    def take(
        self, f: VectorField, solver: ODESolver, step: Step, t1: float, hits: Sequence[Hit], cut: bool, dense: bool
    ) -> tuple[Step, tuple[Slot, ...]]:
        """Record what lies in an accepted step that ends at ``t1``.

        ``hits`` are the events in it; ``cut`` says that the solve ends at the last of them. ``dense`` tells that the
        step is densified already. Returns the step, densified if need be, and its slots.
        """
        end = hits[-1].t if cut else t1
        slots = [*self._planned_until(end), *(Slot(hit.t, hit=hit) for hit in hits)]
        if hits:
            slots.sort(key=lambda slot: (slot.t * self.direction, slot.hit is not None))
        if self.every_step and not cut:
            slots.append(Slot(t1))
        step, states = states_in(f, solver, step, t1, self.clock, slots, dense)
        self.slots += slots
        self.taken += states
        return step, tuple(slots)

    def told(self, end: float, states: Tensor | None, y: Tensor) -> tuple[Slot, ...]:
        """Record the planned outputs up to ``end``, where somebody else has found them.

        ``states [T - 1, ...]`` are those after the first one. None if there is but one, the end, with the state ``y``.
        """
        slots = self._planned_until(end)
        self.slots += slots
        self.taken += [y if states is None else states[slot.index - 1] for slot in slots if slot.index is not None]
        return tuple(slots)

    def _planned_until(self, end: float) -> list[Slot]:
        times, first = self.clock.times, self.planned
        if self.every_step:
            return []
        while self.planned < len(times) and self._passed(times[self.planned], end):
            self.planned += 1
        return [Slot(times[k], k) for k in range(first, self.planned)]

    def _passed(self, t: float, end: float) -> bool:
        return (end - t) * self.direction >= 0 or same_time(t, end)

    def rest(self, states: list[Tensor]) -> None:
        """All outputs of a span of nothing."""
        self.slots = [Slot(t, k) for k, t in enumerate(self.clock.times)]
        self.taken, self.planned = states, len(states)

    def drop_non_finite(self) -> tuple[float, Tensor]:
        """Take the states from the first non-finite one on as not reached; the last time that is left, and the state.

        What is left then has no connection to the numbers that broke, so that its gradient is right.
        """
        finite = lanes.everywhere(torch.isfinite(torch.stack(self.taken)).unsqueeze(-1).flatten(1).all(1))
        keep = max(1, [*finite, False].index(False))
        del self.taken[keep:], self.slots[keep:]
        return self.slots[-1].t, self.taken[-1]


def at_rest(f: VectorField, y0: Tensor, clock: Clock) -> list[Tensor]:
    """The states at output times that all are the same: ``y0``, which still moves by f as those times move apart."""
    if not clock.differentiable:
        return [y0] * len(clock.times)
    t0 = clock.output(0)
    slope = f(t0, y0)
    moved = (coefficient(clock.output(k) - t0, y0) for k in range(1, len(clock.times)))
    return [y0, *(y0 + dt * slope for dt in moved)]


def states_in(
    f: VectorField, solver: ODESolver, step: Step, t1: float, clock: Clock, slots: Sequence[Slot], dense: bool = False
) -> tuple[Step, list[Tensor]]:
    """The states at these outputs, all within the step, which ends at host time ``t1``."""
    states = []
    for slot in slots:
        if at_end(clock, slot, t1):
            states.append(step.y1)
            continue
        if not dense:
            step, dense = solver.densify(f, step), True
        theta = (slot.time(clock) - step.t0) / (step.t1 - step.t0)
        states.append(solver.interpolate(step, theta))
    return step, states


def at_end(clock: Clock, slot: Slot, t1: float) -> bool:
    """Whether an output is the end ``t1`` of its step, so that the step's own ``y1`` is the answer.

    Where times are differentiated, of the caller's times only the last one counts as such: anywhere else the derivative
    with respect to that output time comes out of the dense output.
    """
    if clock.differentiable and slot.index is not None:
        return slot.index == len(clock.times) - 1
    return same_time(slot.t, t1)


def same_time(t: float, t1: float) -> bool:
    """Whether two times differ by rounding alone."""
    return math.isfinite(t) and abs(t - t1) <= 4 * math.ulp(max(abs(t), abs(t1)))
