"""Measuring: orders of convergence, and directional derivatives by differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def slope(sizes: Sequence[float], errors: Sequence[float]) -> float:
    """The exponent p of errors ~ size^p, by least squares."""
    x, y = ([math.log(value) for value in values] for values in (sizes, errors))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - mean_x) ** 2 for a in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / over


def finest_slope(sizes: Sequence[float], errors: Sequence[float], floor: float, points: int = 3) -> float:
    """The slope over the finest few sizes whose errors are above rounding; NaN if there are not two of them.

    Sizes decrease. What comes after the first error at the floor is rounding, and not looked at.
    """
    usable = next((i for i, error in enumerate(errors) if not error > floor), len(errors))
    if usable < 2:
        return math.nan
    chosen = slice(max(usable - points, 0), usable)
    return slope(sizes[chosen], errors[chosen])


def difference(function: Callable[[float], float], size: float = 1e-3) -> float:
    """The derivative at 0 by central differences, extrapolated once: an error of about ``size``⁴.

    Richardson 1911; Hairer, Nørsett & Wanner, *Solving ODEs I*, II.9.
    """
    coarse, fine = ((function(h) - function(-h)) / (2 * h) for h in (size, size / 2))
    return (4 * fine - coarse) / 3


def apart(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest entry of what was expected; infinite where there is a NaN."""
    if found.shape != expected.shape:
        return math.inf
    if not expected.numel():
        return 0.0
    gap = float((found.detach() - expected.detach()).abs().max())
    scale = float(expected.detach().abs().max())
    return math.inf if math.isnan(gap) else gap / max(scale, torch.finfo(expected.dtype).tiny)


def digits(error: float) -> float:
    """How many decimal digits are right: -log10 of a relative error, between 0 and 16."""
    if not math.isfinite(error):
        return 0.0
    return min(max(-math.log10(max(error, 1e-16)), 0.0), 16.0)
