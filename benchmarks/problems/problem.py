"""An initial value problem whose answer is known, and what counts as a correct digit of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor


def tensor(values: Any) -> Tensor:
    """The numbers in float64."""
    return torch.as_tensor(values, dtype=torch.float64)


@attrs.frozen(eq=False)
class Problem:
    """dy/dt = f(t, y), y(span[0]) = y0 and y(span[1]) = reference, in float64.

    Attributes:
        f: takes ``[..., n]``; leading axes are a batch.
        y0: ``[n]``.
        reference: ``[n]``.
        source: where the reference is from.
        floor: for every component ``[n]``, the size below which it counts as nothing. Absolute tolerances and digits
            both follow from it.
    """

    name: str
    f: Callable[[Tensor, Tensor], Tensor]
    y0: Tensor = attrs.field(converter=tensor)
    span: tuple[float, float]
    reference: Tensor = attrs.field(converter=tensor)
    source: str
    floor: Tensor = attrs.field(converter=tensor)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "floor", self.floor.expand_as(self.y0).clone())

    def __str__(self) -> str:
        return self.name

    @property
    def times(self) -> Tensor:
        """The span as the output times of a solve."""
        return tensor(self.span)

    def atol(self, rtol: float) -> Tensor:
        """The absolute tolerance ``[n]`` that belongs to a relative one: a component at its floor keeps the same."""
        return rtol * self.floor

    def digits(self, y: Tensor) -> float:
        """Correct digits of an answer ``[n]``, those of its worst component: -log10 max |y - ref| / max(|ref|, floor).

        At most 16; -inf where the answer is not finite.
        """
        error = float(((y - self.reference).abs() / torch.maximum(self.reference.abs(), self.floor)).max())
        return -math.log10(max(error, 1e-16)) if math.isfinite(error) else -math.inf
