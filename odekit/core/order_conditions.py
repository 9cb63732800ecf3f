"""The order of a Runge-Kutta method, decided by algebra.

A method has order p if and only if Σ b_i Φ_i(τ) = 1/γ(τ) for every rooted tree τ with at most p vertices (Butcher 1963;
Hairer, Nørsett & Wanner, *Solving ODEs I*, Theorem II.2.13). A tree is written as the sorted tuple of its subtrees.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

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


def defect(a: Matrix, weights: Sequence[float], order: int, theta: float = 1.0) -> tuple[float, Tree | None]:
    """The largest violation of an order condition up to ``order``, and the tree it belongs to.

    ``weights`` may be those of a dense output at ``theta``, for which Σ b_i Φ_i(τ) = θ^|τ| / γ(τ).
    """
    stages = len(weights)
    known: dict[Tree, list[float]] = {(): [1.0] * stages}

    def stage_weights(tree: Tree) -> list[float]:
        if tree not in known:
            product = [1.0] * stages
            for branch in tree:
                inner = stage_weights(branch)
                for i in range(stages):
                    product[i] *= sum(a[i][j] * inner[j] for j in range(len(a[i])))
            known[tree] = product
        return known[tree]

    worst: tuple[float, Tree | None] = (0.0, None)
    for vertices in range(1, order + 1):
        for tree in trees(vertices):
            phi = stage_weights(tree)
            gap = abs(sum(b * p for b, p in zip(weights, phi, strict=True)) - theta**vertices / density(tree))
            if gap > worst[0]:
                worst = (gap, tree)
    return worst
