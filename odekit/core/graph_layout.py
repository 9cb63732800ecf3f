"""How a nested state is packed, in terms that a compiled graph can hold."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor

from odekit.core.state import TreeLayout


@attrs.frozen(eq=False)
class GraphLayout:
    """Takes apart and puts together what :class:`~odekit.core.state.TreeLayout` does, without its checks.

    Attributes:
        template: the nesting, of dicts, lists, tuples and named tuples, with the number of each tensor in its place.
        tails: the shapes of the tensors, without the first axis if they are ``batched``.
    """

    template: Any
    tails: tuple[tuple[int, ...], ...]
    batched: bool

    @classmethod
    def of(cls, layout: TreeLayout) -> GraphLayout | None:
        """None for a nesting of other kinds."""
        template = layout.template
        return cls(template, tuple(map(tuple, layout.tails)), layout.batched) if _plain(template) else None

    def pack(self, state: Any) -> Tensor:
        leaves: list[Tensor] = []
        _gather(self.template, state, leaves)
        if self.batched:
            return torch.cat([leaf.reshape(leaf.shape[0], math.prod(leaf.shape[1:])) for leaf in leaves], dim=1)
        return torch.cat([leaf.reshape(-1) for leaf in leaves])

    def unpack(self, packed: Tensor) -> Any:
        parts = packed.split([math.prod(tail) for tail in self.tails], dim=-1)
        lead = packed.shape[:-1]
        return _built(self.template, [p.reshape(*lead, *tail) for p, tail in zip(parts, self.tails, strict=True)])


def on_packed(
    call: Callable[..., Any], layout: GraphLayout | None, t: Tensor, y: Tensor, args: tuple[Any, ...]
) -> Tensor:
    """``call(t, y, *args)`` on a packed state; a single tensor, without a layout, is its own packing."""
    if layout is None:
        dy: Tensor = call(t, y, *args)
        return dy
    return layout.pack(call(t, layout.unpack(y), *args))


def _plain(template: Any) -> bool:
    if type(template) is dict:
        return all(map(_plain, template.values()))
    if type(template) in (list, tuple) or (isinstance(template, tuple) and hasattr(template, "_fields")):
        return all(map(_plain, template))
    return isinstance(template, int)


def _gather(template: Any, state: Any, leaves: list[Tensor]) -> None:
    if isinstance(template, int):
        leaves.append(state)
    elif isinstance(template, dict):
        for key in sorted(template, key=lambda key: _first(template[key])):
            _gather(template[key], state[key], leaves)
    else:
        for inner, part in zip(template, state, strict=True):
            _gather(inner, part, leaves)


def _first(template: Any) -> int:
    """The number of the first tensor in it."""
    while not isinstance(template, int):
        template = next(iter(template.values() if isinstance(template, dict) else template), 0)
    return template


def _built(template: Any, leaves: list[Tensor]) -> Any:
    if isinstance(template, int):
        return leaves[template]
    if isinstance(template, dict):
        return {key: _built(inner, leaves) for key, inner in template.items()}
    parts = [_built(inner, leaves) for inner in template]
    if hasattr(template, "_fields"):
        return type(template)(*parts)
    return parts if isinstance(template, list) else tuple(parts)
