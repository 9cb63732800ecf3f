"""Times inside a solve: host floats, or differentiable tensors that follow the caller's output times."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

Time = float | Tensor
"""A time inside a solve: a host float, or a 0-d tensor where the solve is differentiated with respect to time."""


def coefficient(x: Time, y: Tensor) -> Time:
    """``x`` as something that multiplies ``y`` without changing its dtype."""
    return x.to(y.real.dtype) if isinstance(x, Tensor) else x


def host(x: Time) -> float:
    """``x`` as a host float."""
    return float(x.detach()) if isinstance(x, Tensor) else x


def _wide(ts: Tensor | None) -> Tensor | None:
    """Times in float64, where the device has it, so that step sizes do not suffer from times in a narrow dtype."""
    return ts if ts is None or ts.device.type == "mps" else ts.double()


@attrs.frozen(eq=False)
class Clock:
    """Maps the loop's host times to the times that steps compute with.

    Without ``ts`` that is the identity. With ``ts``, the tensor ``[T]`` of output times, every interior time moves with
    both ends of the span as if the grid were stretched: ``t(τ) = t0 + (t1 - t0) (τ - τ0)/(τ1 - τ0)``. Derivatives
    with respect to the output times then follow from differentiating the steps.
    """

    times: tuple[float, ...]
    ts: Tensor | None = attrs.field(default=None, converter=_wide)

    @property
    def differentiable(self) -> bool:
        return self.ts is not None

    def __call__(self, t: float) -> Time:
        if self.ts is None:
            return t
        first, last = self.times[0], self.times[-1]
        return torch.lerp(self.ts[0], self.ts[-1], (t - first) / (last - first))

    def output(self, index: int) -> Time:
        """The ``index``-th output time."""
        return self.times[index] if self.ts is None else self.ts[index]
