"""Accepted steps as the loop tells of them."""

from __future__ import annotations

from typing import Any

import attrs
from torch import Tensor

from odekit.core.outputs import Slot
from odekit.core.sections import Section


@attrs.frozen(eq=False)
class Passage:
    """When an accepted step was taken and what fell into it, without the state that it was taken from.

    Attributes:
        t0, t1: host times of its ends.
        fresh: whether the carry that the solver was handed came from ``init``: at the start, and after a discontinuity.
        first: how many outputs there were before it.
        slots: the outputs that fell into it.
        section: where f is continuous around it; None if f is so everywhere.
        tries: where rejected tries at it ended which changed what the solver was handed for the next one.
    """

    t0: float
    t1: float
    fresh: bool
    first: int
    slots: tuple[Slot, ...]
    section: Section | None = None
    tries: tuple[float, ...] = ()

    def starting(self, y0: Tensor, carry: Any) -> Accepted:
        """The step with the state that it starts from."""
        return Accepted(
            self.t0, self.t1, self.fresh, self.first, self.slots, self.section, self.tries, y0=y0, carry=carry
        )


@attrs.frozen(eq=False)
class Accepted(Passage):
    """An accepted step as a gradient method may keep it: enough to take it again.

    Attributes:
        y0: the state at its start.
        carry: what the solver was handed; None for a solver that is ``memoryless``, and where that came from ``init``.
    """

    y0: Tensor = attrs.field(kw_only=True)
    carry: Any = attrs.field(kw_only=True)

    @property
    def passage(self) -> Passage:
        """The same without the state."""
        return Passage(self.t0, self.t1, self.fresh, self.first, self.slots, self.section, self.tries)
