"""The order of a Runge-Kutta method, decided by algebra.

A method has order p if and only if Σ b_i Φ_i(τ) = 1/γ(τ) for every rooted tree τ with at most p vertices (Butcher 1963;
Hairer, Nørsett & Wanner, *Solving ODEs I*, Theorem II.2.13). A tree is written as the sorted tuple of its subtrees.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import attrs
import numpy as np

Tree = tuple["Tree", ...]
Matrix = Sequence[Sequence[float]]


@functools.cache
def trees(vertices: int) -> tuple[Tree, ...]:
    """All rooted trees with this many vertices (1, 1, 2, 4, 9, 20, 48, 115, ... of them)."""
    return tuple(sorted(_forests(vertices - 1, vertices - 1)))


@functools.cache
def _forests(vertices: int, largest: int) -> tuple[Tree, ...]:
    """All multisets of trees with ``vertices`` vertices in all, none of them with more than ``largest``."""
    if vertices == 0:
        return ((),)
    found = set()
    for size in range(1, min(vertices, largest) + 1):
        for count in range(1, vertices // size + 1):
            for chosen in itertools.combinations_with_replacement(trees(size), count):
                for rest in _forests(vertices - size * count, size - 1):
                    found.add(tuple(sorted((*chosen, *rest))))
    return tuple(found)


@functools.cache
def size(tree: Tree) -> int:
    """The number of vertices."""
    return 1 + sum(size(branch) for branch in tree)


@functools.cache
def density(tree: Tree) -> int:
    """γ(τ), the product of the sizes of all subtrees."""
    product = size(tree)
    for branch in tree:
        product *= density(branch)
    return product


@attrs.frozen(eq=False)
class _Grafts:
    """How the trees with n vertices grow out of smaller ones: τ is ``stock`` with ``scion`` hung to its root.

    Both are positions in the list of all trees with fewer vertices, smallest first; the first is the bare root.
    ``densities`` are the γ(τ).
    """

    stock: np.ndarray
    scion: np.ndarray
    densities: np.ndarray


@functools.cache
def _grafts(vertices: int) -> _Grafts:
    position = {tree: i for i, tree in enumerate(itertools.chain(*map(trees, range(1, vertices))))}
    grown = trees(vertices)
    return _Grafts(
        np.array([position[tree[:-1]] for tree in grown if tree], dtype=int),
        np.array([position[tree[-1]] for tree in grown if tree], dtype=int),
        np.array([density(tree) for tree in grown], dtype=float),
    )


def elementary_weights(a: Matrix, order: int, single: Matrix | None = None) -> list[np.ndarray]:
    """Φ_i(τ) of every stage i and every tree τ: an array ``[trees, s]`` for each number of vertices up to ``order``.

    ``single`` takes the place of ``a`` at vertices with one branch.
    """
    matrix = _square(a)
    alone = matrix if single is None else _square(single)
    found = [np.ones((1, len(matrix)))]
    products = [np.ones((1, len(matrix)))]
    for vertices in range(2, order + 1):
        smaller, stocks, grafts = np.concatenate(found), np.concatenate(products), _grafts(vertices)
        branches = (smaller @ matrix.T)[grafts.scion]
        products.append(stocks[grafts.stock] * branches)
        only = (grafts.stock == 0)[:, None]
        found.append(np.where(only, (smaller @ alone.T)[grafts.scion], products[-1]))
    return found[:order]


def _square(a: Matrix) -> np.ndarray:
    matrix = np.zeros((len(a), len(a)))
    for i, row in enumerate(a):
        matrix[i, : len(row)] = row
    return matrix


def violations(
    a: Matrix, weights: Sequence[float], order: int, theta: float = 1.0, single: Matrix | None = None
) -> list[tuple[float, Tree]]:
    """For each number of vertices up to ``order`` the largest violation of a condition, and the tree it belongs to.

    ``weights`` may be those of a dense output at ``theta``, for which Σ b_i Φ_i(τ) = θ^|τ| / γ(τ). ``single`` takes the
    place of ``a`` at vertices with one branch: α + Γ of a Rosenbrock method, whose Jacobian acts at those (Hairer &
    Wanner, *Solving ODEs II*, Theorem IV.7.3).
    """
    found = []
    for vertices, phi in enumerate(elementary_weights(a, order, single), start=1):
        gaps = np.abs(phi @ np.asarray(weights, dtype=float) - theta**vertices / _grafts(vertices).densities)
        worst = int(gaps.argmax())
        found.append((float(gaps[worst]), trees(vertices)[worst]))
    return found


def defect(
    a: Matrix, weights: Sequence[float], order: int, theta: float = 1.0, single: Matrix | None = None
) -> tuple[float, Tree | None]:
    """The largest of the :func:`violations`, and the tree it belongs to."""
    return max(violations(a, weights, order, theta, single), key=lambda found: found[0], default=(0.0, None))


def attained(a: Matrix, weights: Sequence[float], most: int, theta: float = 1.0, rounding: float = 1e-9) -> int:
    """The order, up to ``most``, whose conditions the weights meet to rounding; with ``theta`` as above."""
    met = (gap <= rounding for gap, _ in violations(a, weights, most, theta))
    return sum(itertools.takewhile(bool, met))
