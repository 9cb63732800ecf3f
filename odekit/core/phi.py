"""The φ functions of exponential integrators, on the host in double precision and without cancellation.

φ_0(z) = e^z and φ_{k+1}(z) = (φ_k(z) - 1/k!) / z; the formula itself loses all digits where z is small. Hochbruck &
Ostermann 2010, *Exponential integrators*, Acta Numerica 19, (2.11).
"""

from __future__ import annotations

import math

import numpy as np

Phis = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""φ_0, φ_1, φ_2 and φ_3 of one argument."""

_CIRCLE = 2 * np.exp(2j * np.pi * (np.arange(32) + 0.5) / 32)
"""Where the mean value over a circle is taken: its radius keeps all of it at least 1 away from 0 for |z| <= 1."""
_TERMS = 16
"""Terms of Taylor series for norms up to 1/2: what follows is below 1e-20."""


def phis_of_numbers(z: np.ndarray) -> Phis:
    """The φ functions of each entry, real for real ones.

    Entries within the unit circle are means over a circle around them: an entire function is the mean of its values
    there, and the trapezoidal rule converges geometrically. Kassam & Trefethen 2005, *Fourth-order time-stepping for
    stiff PDEs*, SIAM J. Sci. Comput. 26, (3.1).
    """
    small = np.abs(z) < 1
    around = [values.mean(-1) for values in _by_formula(np.where(small, z, 0)[..., None] + _CIRCLE)]
    away = _by_formula(np.where(small, 1, z))
    one, two, three = (
        np.where(small, near if np.iscomplexobj(z) else near.real, far)
        for near, far in zip(around[1:], away[1:], strict=True)
    )
    with np.errstate(over="ignore", invalid="ignore"):
        return np.exp(z), one, two, three


def _by_formula(z: np.ndarray) -> Phis:
    with np.errstate(over="ignore", invalid="ignore"):
        zero = np.exp(z)
        one = (zero - 1) / z
        two = (one - 1) / z
        return zero, one, two, (two - 0.5) / z


def phis_of_matrix(z: np.ndarray) -> tuple[Phis, Phis]:
    """The φ functions of ``z / 2`` and of ``z``, a matrix ``[n, n]``.

    Taylor series of a matrix halved until its norm is small, then doubled back: φ_k(2z) = 2^-k [φ_0(z) φ_k(z) +
    Σ_{j=1..k} φ_j(z) / (k-j)!]. Skaflestad & Wright 2009, *The scaling and modified squaring method for matrix
    functions related to the exponential*, Appl. Numer. Math. 59, (3).
    """
    norm = float(np.linalg.norm(z, 1))
    halvings = max(1, math.ceil(math.log2(norm)) + 1) if norm > 0 else 1
    with np.errstate(over="ignore", invalid="ignore"):
        half = _by_series(z / 2.0**halvings)
        for _ in range(halvings - 1):
            half = _doubled(half)
        return half, _doubled(half)


def _by_series(z: np.ndarray) -> Phis:
    one = np.eye(len(z), dtype=z.dtype)
    three = one / math.factorial(_TERMS + 3)
    for power in range(_TERMS - 1, -1, -1):
        three = one / math.factorial(power + 3) + z @ three
    two = one / 2 + z @ three
    first = one + z @ two
    return one + z @ first, first, two, three


def _doubled(phis: Phis) -> Phis:
    zero, one, two, three = phis
    return (
        zero @ zero,
        (zero @ one + one) / 2,
        (zero @ two + one + two) / 4,
        (zero @ three + one / 2 + two + three) / 8,
    )
