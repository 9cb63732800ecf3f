"""Events as torchdiffeq has them: one or several numbers, the first of which to cross zero ends the solve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import optree
import torch
from torch import Tensor

from odekit.compat.dynamics import Dynamics
from odekit.core.events import Event, Watch, located
from odekit.core.field import Field
from odekit.core.state import lay_out

EventFn = Callable[[Tensor, Any], Tensor]


@attrs.frozen(eq=False)
class First:
    """An event function of one or several numbers, as one that falls below zero where the first of them crosses it.

    A number that jumps to zero and stays there has crossed it. The time of such a jump depends on nothing, and has no
    gradient.

    Attributes:
        event_fn: the caller's.
        signs: those of its numbers at the start.
    """

    event_fn: EventFn
    signs: Tensor

    def __call__(self, t: Tensor, y: Any) -> Tensor:
        value = self._lowest(t, y)
        return value.detach() if torch.is_grad_enabled() and value.requires_grad and self._is_flat(t, y) else value

    def _lowest(self, t: Tensor, y: Any) -> Tensor:
        value = (self.event_fn(t, y) * self.signs).amin()
        return torch.where(value == 0, value - torch.finfo(value.dtype).tiny, value)

    def _is_flat(self, t: Tensor, y: Any) -> bool:
        t, y = t.detach().requires_grad_(), optree.tree_map(lambda leaf: leaf.detach().requires_grad_(), y)
        value = self._lowest(t, y)
        if not value.requires_grad:
            return True
        slopes = torch.autograd.grad(value, [t, *optree.tree_leaves(y)], allow_unused=True)
        return not any(slope is not None and bool(slope.any()) for slope in slopes)


def first_of(event_fn: EventFn, t0: Tensor, y0: Any) -> First:
    """The first of the numbers that ``event_fn`` gives to cross zero, on the way from ``(t0, y0)``."""
    with torch.no_grad():
        values = event_fn(t0.detach(), optree.tree_map(torch.detach, y0))
        return First(event_fn, torch.where(values < 0, -1.0, 1.0).to(values))


def reached(func: Callable[[Tensor, Any], Any], event: First, t: Tensor, states: Any) -> tuple[Tensor, Any]:
    """An event found at ``t``, and the states ``[2, ...]`` at the start and there, with the gradient of its time.

    ``states`` come with the gradient that they have at a fixed time.
    """
    y0, y1 = (optree.tree_map(lambda leaf, k=k: leaf[k], states) for k in (0, 1))
    start, _ = lay_out(y0)
    end, layout = lay_out(y1)
    with torch.no_grad():
        slope = Field(Dynamics(func), (), layout, end, (float(t), float(t)))(float(t), end)
    t, end = located(Watch(Event(event), layout, ()), t, end, slope)
    return t, layout.unpack(torch.stack([start, end]))
