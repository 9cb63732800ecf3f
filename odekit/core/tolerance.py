"""How large an error may be: rtol, atol, and the norm in which it is measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor

from odekit.core import lanes
from odekit.errors import InputError, nearest

if TYPE_CHECKING:
    from odekit.core.protocols import Step

Norm = Callable[[Tensor], Tensor]


def rms(x: Tensor) -> Tensor:
    """Root mean square over all components; 0 if there are none. Hairer, Nørsett & Wanner, *Solving ODEs I*, (4.11)."""
    return torch.linalg.vector_norm(x) / math.sqrt(max(x.numel(), 1))


def largest(x: Tensor) -> Tensor:
    """The largest modulus; 0 for an empty tensor."""
    return x.abs().amax() if x.numel() else torch.zeros((), dtype=x.real.dtype, device=x.device)


NORMS: dict[str, Norm] = {"rms": rms, "max": largest}


def resolve_norm(norm: str | Norm) -> Norm:
    """A norm by name, or the given callable itself."""
    if callable(norm):
        return norm
    if norm not in NORMS:
        raise InputError(
            f"norm={norm!r} is not known. {nearest(str(norm), NORMS)} A callable x -> 0-d tensor works too."
        )
    return NORMS[norm]


@attrs.frozen(eq=False)
class Tolerance:
    """An error e passes where ``norm(e / (atol + rtol max(|y0|, |y1|))) <= 1``.

    ``rtol`` and ``atol`` are floats, or real tensors that broadcast against the packed state.
    """

    rtol: float | Tensor
    atol: float | Tensor
    norm: Norm = rms

    def scale(self, y: Tensor) -> Tensor:
        """What counts as one unit of error at the state ``y``."""
        return self.atol + self.rtol * y.abs()

    def scaled(self, step: Step) -> Tensor | None:
        """The scaled error of a step; None if it has no estimate."""
        if step.ratio is not None or step.error is None:
            return step.ratio
        return self.ratio(step.error, step.y0, step.y1)

    def ratio(self, error: Tensor, y0: Tensor, y1: Tensor) -> Tensor:
        """The scaled error of a step as a 0-d real tensor; the step passes up to 1."""
        return self.norm(error / (self.atol + self.rtol * torch.maximum(y0.abs(), y1.abs())))


def checked(rtol: float | Tensor, atol: float | Tensor, dtype: torch.dtype, norm: Norm) -> Tolerance:
    """A tolerance that steps of a state of this dtype can meet.

    Next to nothing takes the place of an ``atol`` of 0, so that a component that stays at 0 exactly passes (0/0 is
    NaN): the square root of the smallest normal number, since the usual norms square what is divided by it.

    Raises:
        InputError: both are 0 for some component.
    """
    impossible = (rtol == 0) & (atol == 0)
    if not lanes.everywhere(~impossible.any()) if isinstance(impossible, Tensor) else impossible:
        raise InputError("rtol and atol are both 0, which no step can meet; give at least one of them, e.g. rtol=1e-6")
    least = math.sqrt(torch.finfo(dtype).tiny)
    return Tolerance(rtol, atol.clamp_min(least) if isinstance(atol, Tensor) else max(atol, least), norm)


def default_tolerances(dtype: torch.dtype, adaptive: bool) -> tuple[float, float]:
    """``(rtol, atol)`` for a state of this dtype, where the user names none.

    Adaptive steps aim at what the dtype can comfortably deliver. Fixed steps use tolerances for the Newton iteration
    alone, and that should not show in the answer, so they are tighter.
    """
    wide = dtype in (torch.float64, torch.complex128)
    narrow = dtype in (torch.float16, torch.bfloat16)
    if adaptive:
        return (1e-7, 1e-9) if wide else (1e-2, 1e-3) if narrow else (1e-5, 1e-6)
    return (1e-10, 1e-12) if wide else (1e-2, 1e-3) if narrow else (1e-6, 1e-7)
