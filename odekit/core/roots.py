"""Roots of many scalar functions at once, each between two points at which it has different signs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Function = Callable[[np.ndarray], np.ndarray]

_ITERATIONS = 120
"""More than bisection needs from one end of the doubles to the other within [0, 1], twice over."""


def bracketed_roots(
    g: Function, low: np.ndarray, high: np.ndarray, g_low: np.ndarray, g_high: np.ndarray, xtol: np.ndarray | float
) -> np.ndarray:
    """Where ``g`` changes its sign between ``low`` and ``high``, to within ``xtol``.

    Inverse quadratic interpolation where it is safe, bisection elsewhere, for all brackets in step. Chandrupatla 1997,
    *A new hybrid quadratic/bisection algorithm for finding the zero of a nonlinear function without using derivatives*.

    Args:
        g: elementwise; called with ``[K]`` points, one in each bracket, and gives ``[K]`` values.
        low, high: ``[K]``, the brackets; ``g_low``, ``g_high`` are the values there, of opposite sign or zero.
        xtol: ``[K]`` or one number.

    Returns:
        ``[K]``, the end of each final bracket at which ``g`` is smaller in size.
    """
    a, b, fa, fb = (np.array(x, dtype=np.float64) for x in (high, low, g_high, g_low))
    c, fc = a.copy(), fa.copy()
    where = np.full_like(a, 0.5)
    for _ in range(_ITERATIONS):
        best = np.where(np.abs(fa) < np.abs(fb), a, b)
        width = np.abs(b - a)
        open_ = (width > xtol) & (fa != 0) & (fb != 0)
        if not open_.any():
            break
        x = a + where * (b - a)
        fx = np.asarray(g(np.where(open_, x, best)), dtype=np.float64)
        same = np.sign(fx) == np.sign(fa)
        c, fc = np.where(open_, np.where(same, a, b), c), np.where(open_, np.where(same, fa, fb), fc)
        b, fb = np.where(open_ & ~same, a, b), np.where(open_ & ~same, fa, fb)
        a, fa = np.where(open_, x, a), np.where(open_, fx, fa)
        where = _fraction(a, b, c, fa, fb, fc, xtol)
    return np.where(np.abs(fa) < np.abs(fb), a, b)


def _fraction(
    a: np.ndarray,
    b: np.ndarray,
    c: np.ndarray,
    fa: np.ndarray,
    fb: np.ndarray,
    fc: np.ndarray,
    xtol: np.ndarray | float,
) -> np.ndarray:
    """How far from a to b the next point lies: by inverse quadratic interpolation where it can be trusted."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
        trusted = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
        step = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
        least = np.minimum(0.5, 0.5 * xtol / np.abs(b - a))
    step = np.where(trusted & np.isfinite(step), step, 0.5)
    return np.clip(step, np.nan_to_num(least, nan=0.5), 1 - np.nan_to_num(least, nan=0.5))
