"""The norms of a state that is one tensor or a tuple of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from odekit.core.state import Layout
from odekit.core.tolerance import Norm, rms

StateNorm = Callable[[Any], Any]
"""Takes a state nested as the caller's y0, and gives a non-negative number or 0-d tensor."""


def mixed(parts: Iterable[Tensor]) -> Tensor | float:
    """The largest RMS among the parts; 0 if there are none."""
    sizes = [rms(part) for part in parts if part.numel()]
    return torch.stack(sizes).amax() if sizes else 0.0


def usual(y0: Any) -> StateNorm:
    """What torchdiffeq takes for such a state: the RMS of a tensor, the largest one of a tuple."""
    return rms if isinstance(y0, Tensor) else mixed


def on_packed(norm: StateNorm, layout: Layout) -> Norm:
    """A norm of states as one of the packed tensor that odekit works on."""

    def packed_norm(packed: Tensor) -> Tensor:
        size = norm(layout.unpack(packed))
        return torch.as_tensor(size, dtype=packed.real.dtype, device=packed.device).abs()

    return packed_norm
