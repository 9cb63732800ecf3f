"""Products with the Jacobians of a piece of a solve, and adding them up."""

from __future__ import annotations

from typing import Any

import optree
import torch
from torch import Tensor


def added(total: Tensor | None, grad: Tensor | None) -> Tensor | None:
    if total is None or grad is None:
        return grad if total is None else total
    return total + grad


def flows(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def flowing(tree: Any) -> dict[Any, Tensor]:
    """The tensors in a carry that gradients can flow through, by their places."""
    paths, leaves, _ = optree.tree_flatten_with_path(tree, none_is_leaf=True)
    return {path: leaf for path, leaf in zip(paths, leaves, strict=True) if flows(leaf)}


def detached(leaf: Any) -> Any:
    """A leaf of a carry without its graph."""
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


def vjp(outputs: list[Tensor], cotangents: list[Tensor | None], inputs: list[Tensor]) -> list[Tensor | None]:
    """Σ cotangentᵀ ∂output/∂input for each input; None where there is no dependence.

    The graph is kept, because a captured tensor's own history is part of every step's graph.
    """
    pairs = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if c is not None and o.requires_grad]
    if not pairs:
        return [None] * len(inputs)
    roots, seeds = zip(*pairs, strict=True)
    return list(torch.autograd.grad(roots, inputs, seeds, allow_unused=True, retain_graph=True))
