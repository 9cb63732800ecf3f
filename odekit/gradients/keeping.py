"""Which states of a solve are kept, so that its steps can be gone through from the last to the first."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from odekit.core.accepted import Accepted, Passage
from odekit.errors import InputError

State = tuple[Tensor, Any]
"""A state and the carry that goes with it."""
Advance = Callable[[Passage, State, Passage], State]
"""Takes a step again: from the state at its start to the one at the start of the step that follows."""


class Keeping(ABC):
    """Keeps the passages of all steps, and the states at the start of some of them.

    The way back needs every state once, last first. Those that are not there are computed again from the nearest
    earlier one that is, with some of the states on the way kept where earlier ones have been let go.

    Attributes:
        passages: of the accepted steps, in order.
        states: by the number of the step that starts there.
    """

    def __init__(self) -> None:
        self.passages: list[Passage] = []
        self.states: dict[int, State] = {}

    def add(self, step: Accepted) -> None:
        """Take note of the next accepted step."""
        number = len(self.passages)
        self.passages.append(step.passage)
        self.states[number] = step.y0, step.carry
        self.thin(number)

    @abstractmethod
    def thin(self, number: int) -> None:
        """Let go of states, now that there is one for the step of this number too."""

    @abstractmethod
    def room(self) -> int:
        """How many states may be kept on the way back."""

    def cut(self, count: int) -> None:
        """Forget the steps after the first ``count``."""
        del self.passages[count:]
        for number in [number for number in self.states if number >= count]:
            del self.states[number]

    def backwards(self, advance: Advance) -> Iterator[Accepted]:
        """Every step from the last to the first, with the state at its start.

        Where there is room, the states to keep are those of :func:`split`. What was kept on the way forward is still
        there afterwards.
        """
        room, alive = self.room(), dict(self.states)
        order, left = sorted(alive), len(self.passages)
        while left:
            start = order[-1]
            length, free = left - start, room - len(order)
            number, state = start, alive[start]
            if length > 1:
                number = left - 1 if free <= 0 else start + split(length, free + 1)
                for passed in range(start, number):
                    state = advance(self.passages[passed], state, self.passages[passed + 1])
                if free > 0:
                    order.append(number)
                    alive[number] = state
                    continue
            else:
                order.pop()
                del alive[start]
            left -= 1
            yield self.passages[number].starting(*state)


class Every(Keeping):
    """Keeps all states."""

    def thin(self, number: int) -> None:
        pass

    def room(self) -> int:
        return len(self.passages)


class AtMost(Keeping):
    """Keeps at most so many states, whatever the number of steps, which need not be known beforehand.

    Every state has a level. One is dispensable if a later one has a higher level. A new state of level 0 takes the
    place of the latest dispensable one; if there is none, it takes that of the last one, one level above it. The number
    of times that a step is taken is then the least that is possible with so many states. Wang, Moin & Iaccarino 2009,
    *Minimal repetition dynamic checkpointing algorithm for unsteady adjoint calculation*, Algorithm 1.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.levels: dict[int, float] = {}

    def thin(self, number: int) -> None:
        if number == 0:
            self.levels[0] = math.inf
            return
        level = 0.0
        if len(self.levels) == self.count:
            given_up = self._dispensable()
            if given_up is None:
                given_up = max(self.levels)
                level = self.levels[given_up] + 1
            if given_up == 0:  # there is room for the first state alone
                del self.states[number]
                return
            del self.levels[given_up], self.states[given_up]
        self.levels[number] = level

    def _dispensable(self) -> int | None:
        """The latest state that has a higher level after it."""
        highest = -1.0
        for number in reversed(self.levels):
            if self.levels[number] < highest:
                return number
            highest = max(highest, self.levels[number])
        return None

    def room(self) -> int:
        return self.count


class SquareRoot(Keeping):
    """Keeps states in number like the square root of that of the steps, at equal distances that grow with it.

    On the way back there is room for as many again, so that every step is taken again once, and once with gradients.
    Chen, Xu, Zhang & Guestrin 2016, *Training deep nets with sublinear memory cost*, Section 4.1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.distance = 1

    def thin(self, number: int) -> None:
        if number % self.distance:
            del self.states[number]
        elif len(self.states) > 2 * self.distance:
            self.distance *= 2
            for between in [between for between in self.states if between % self.distance]:
                del self.states[between]

    def room(self) -> int:
        return len(self.states) + self.distance


def split(length: int, room: int) -> int:
    """How far to go before the next state is kept, with ``length`` steps ahead and ``room`` states, the first included.

    With the fewest t for which binomial(room + t, t) >= length, no step is taken again more than t times and the sum is
    the least possible. Griewank & Walther 2000, *Algorithm 799: Revolve*, Section 2.
    """
    times = 1
    while math.comb(room + times, times) < length:
        times += 1
    return min(math.comb(room + times - 1, times - 1), length - math.comb(room + times - 2, times - 1))


def keeping(budget: int | str | None) -> Keeping:
    """What ``budget`` stands for.

    Raises:
        InputError: nothing.
    """
    if budget is None:
        return Every()
    if budget == "sqrt":
        return SquareRoot()
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1:
        raise InputError(
            f"budget={budget!r}: expected the number of states to keep, an integer >= 1, or 'sqrt', or None for one "
            "state an accepted step"
        )
    return AtMost(budget)
