"""Backward differences of a solution on an even grid, as multistep methods remember it.

∇y_n = y_n - y_{n-1}, ∇^j y_n = ∇^{j-1} y_n - ∇^{j-1} y_{n-1}. The differences to order k at t_n are the polynomial of
degree k through the last k + 1 points; changing the step size is evaluating it elsewhere (Shampine & Reichelt 1997,
*The MATLAB ODE suite*, section 2). They are kept as one tensor ``[K, *state]``, ∇y first; y itself is not among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from odekit.core.times import Time, coefficient


def sampled(polynomial: Callable[[float], Tensor], count: int, kept: int) -> Tensor:
    """The first ``count`` differences of what ``polynomial`` gives at 1, 0, -1, ...; zeros follow, up to ``kept``."""
    points = torch.stack([polynomial(1.0 - i) for i in range(count + 1)])
    weights = np.array([[(-1) ** i * math.comb(j, i) for i in range(count + 1)] for j in range(1, count + 1)])
    found = _weighted(weights, points)
    blank = torch.zeros((kept - count, *found.shape[1:]), dtype=found.dtype, device=found.device)
    return torch.cat([found, blank])


def respaced(differences: Tensor, order: int, factor: float) -> Tensor:
    """The differences of the same polynomial of degree ``order`` on a grid ``factor`` times as wide."""
    changed = _weighted((_spread(order, factor) @ _spread(order, 1.0))[1:, 1:].T, differences[:order])
    return torch.cat([changed, differences[order:]])


def _spread(order: int, factor: float) -> np.ndarray:
    """R with ∇^j on the wide grid = Σ_i (R U)_ij ∇^i, where U is R for the factor 1."""
    i, j = np.arange(1, order + 1)[:, None], np.arange(1, order + 1)
    matrix = np.zeros((order + 1, order + 1))
    matrix[0] = 1
    matrix[1:, 1:] = (i - 1 - factor * j) / i
    return np.cumprod(matrix, axis=0)


def advanced(differences: Tensor, order: int, last: Tensor) -> Tensor:
    """The differences one point later, where the one of degree ``order + 1`` turned out to be ``last``.

    Those to ``order + 2`` are then known; the latter is right if the former was known a point earlier.
    """
    lower = differences[:order].flip(0).cumsum(0).flip(0) + last
    upper = torch.stack([last, last - differences[order]])
    return torch.cat([lower, upper, differences[order + 2 :]])


def evaluated(y1: Tensor, differences: Tensor, order: int, theta: Time) -> Tensor:
    """The polynomial of degree ``order`` at t1 + (theta - 1) h; theta = 1 gives ``y1``."""
    x = coefficient(theta, y1) - 1
    y: Tensor = y1
    basis: float | Tensor = 1.0
    for j in range(order):
        basis = basis * (x + j) / (j + 1)
        y = y + basis * differences[j]
    return y


def weighted_sum(weights: np.ndarray, differences: Tensor) -> Tensor:
    """Σ_j w_j ∇^j over as many of them as there are weights."""
    return _weighted(weights[None], differences[: len(weights)])[0]


def _weighted(weights: np.ndarray, terms: Tensor) -> Tensor:
    matrix = torch.tensor(weights.tolist(), dtype=terms.dtype, device=terms.device)
    return torch.tensordot(matrix, terms, dims=1)
