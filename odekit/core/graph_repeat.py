"""Equal steps from one time to another as part of a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from odekit.core.graph_field import GraphField
from odekit.core.graph_layout import GraphLayout
from odekit.core.protocols import ODESolver


def repeated(
    solver: ODESolver,
    call: Callable[..., Any],
    args: tuple[Any, ...],
    layout: GraphLayout | None,
    ends: Tensor,
    numbers: Tensor,
    y: Tensor,
) -> tuple[Tensor, ...]:
    """Take the first so many of equal steps.

    Args:
        ends: ``[4]``: the first time, the last one, and the bounds of the span from below and above.
        numbers: ``[2]``, in float64: how many steps to take, and how many there are.

    Returns:
        How many were taken, and the state there.
    """

    def going_on(n: Tensor, y: Tensor) -> Tensor:
        return n < numbers[0]

    def taken(n: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        t0, t1, count = ends[0], ends[1], numbers[1]
        field: Any = GraphField(call, args, layout, None, ends[2], ends[3], y.real.dtype)
        start = t0 + (t1 - t0) * (n / count)
        end = torch.where(n + 1 == count, t1, t0 + (t1 - t0) * ((n + 1) / count))
        return n + 1, solver.advance(field, start, end, y, None).y1.clone()

    found: tuple[Tensor, ...] = while_loop(going_on, taken, (torch.zeros_like(numbers[0]), y.clone()))
    return found
