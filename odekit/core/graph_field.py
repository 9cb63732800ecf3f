"""A vector field as a compiled graph sees it: f itself, with neither counters nor checks of what it is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from odekit.core.expansion import Expansion, expand
from odekit.core.graph_layout import GraphLayout, on_packed
from odekit.core.times import Time

Expand = Callable[[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor, bool], Expansion]


@attrs.frozen(eq=False)
class Inlined:
    """What a field hands over so that its calls can become part of a graph.

    Attributes:
        owner: the user's f.
        call: ``call(t, y, *args)``.
        args: its other arguments.
        layout: how states are packed; None where they are single tensors.
        column: the shape in which times by row are told is ``[B, *column]``; None for a time that all rows share.
        bounds: the times beyond which f is not asked, as floats or arrays ``[B]``.
        expand: how ``call`` is taken to first order; None where that cannot be part of a graph.
        count: told how many calls of f, and Jacobians of it, a run of the graph was.
        loops: whether calls can be within a loop of the graph, where ``torch.autograd`` cannot be.
    """

    owner: Callable[..., Any]
    call: Callable[..., Any]
    args: tuple[Any, ...]
    layout: GraphLayout | None
    column: tuple[int, ...] | None
    bounds: tuple[Any, Any]
    count: Callable[[int, int], None]
    expand: Expand | None = expand
    loops: bool = True


class GraphField:
    """The field within a graph: times are tensors in float64, clamped to ``low`` and ``high``."""

    def __init__(
        self,
        call: Callable[..., Any],
        args: tuple[Any, ...],
        layout: GraphLayout | None,
        column: tuple[int, ...] | None,
        low: Tensor,
        high: Tensor,
        dtype: torch.dtype,
        expand: Expand | None,
    ) -> None:
        self.call, self.args, self.layout, self.column = call, args, layout, column
        self.low, self.high, self.dtype, self.expand = low, high, dtype, expand

    def __call__(self, t: Time, y: Tensor) -> Tensor:
        t = self.times((t,))[0]
        if self.column is not None:
            t = t.reshape(y.shape[0], *self.column)
        return on_packed(self.call, self.layout, t, y, self.args)

    def expanded(self, t: Time, y: Tensor, rows: bool) -> Expansion:
        """f to first order there, by rows or with one matrix."""
        assert self.expand is not None  # whoever makes a graph of a step sees to it
        return self.expand(self, self.times((t,))[0], y, rows)

    def times(self, values: Sequence[Time]) -> Sequence[Tensor]:
        """The times in the dtype of f's, none of them beyond the bounds."""
        inside = (torch.minimum(torch.maximum(torch.as_tensor(t), self.low), self.high) for t in values)
        return [t.to(self.dtype) for t in inside]
