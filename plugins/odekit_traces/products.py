"""Vector-Jacobian products of a vector field, many at once, from one evaluation of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from odekit.errors import DynamicsError, InputError

Field = Callable[[Tensor, Tensor], Tensor]
Measure = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


def measured(
    f: Field, t: Tensor, y: Tensor, vectors: Tensor, measure: Measure, chunk: int | None = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """``f(t, y)``, and ``measure(v, vᵀ ∂f/∂y)`` for each ``v`` of ``vectors [K, B, ...]``, stacked along a first axis.

    f is evaluated once and the products ride together through one batched reverse pass, or through one for every
    ``chunk`` of them. ``torch.func`` is used throughout, so that this works inside other function transforms, such as
    the Jacobians of implicit methods; custom autograd functions inside f must therefore support it (have a
    ``setup_context``).

    Raises:
        InputError: ``y`` is not real, or has no batch axis.
        DynamicsError: f returned another shape.
    """
    if not y.is_floating_point() or y.ndim == 0:
        raise InputError(
            f"y has dtype {y.dtype} and shape {tuple(y.shape)}; a trace needs a real state of shape [B, ...]"
        )
    dy, pull = torch.func.vjp(lambda y: f(t, y), y)  # type: ignore[misc]
    if not isinstance(dy, Tensor) or dy.shape != y.shape:
        came = f"shape {tuple(dy.shape)}" if isinstance(dy, Tensor) else f"a {type(dy).__name__}"
        raise DynamicsError(f"f returned {came}; y has shape {tuple(y.shape)}, and so must dy/dt")

    def one(vector: Tensor) -> tuple[Tensor, ...]:
        (product,) = pull(vector)
        return measure(vector, product)

    if len(vectors) == 1:
        return dy, tuple(value.unsqueeze(0) for value in one(vectors[0]))
    return dy, torch.func.vmap(one, chunk_size=chunk)(vectors)


def form(vector: Tensor, product: Tensor) -> tuple[Tensor]:
    """``vᵀ J v`` of each row."""
    return (row_sum(vector * product),)


def form_and_square(vector: Tensor, product: Tensor) -> tuple[Tensor, Tensor]:
    """``vᵀ J v`` and ``‖vᵀ J‖²`` of each row."""
    return row_sum(vector * product), row_sum(product.square())


def row_sum(y: Tensor) -> Tensor:
    """The sum over all axes but the first."""
    return y.reshape(y.shape[0], math.prod(y.shape[1:])).sum(1)


def unit_vectors(y: Tensor) -> Tensor:
    """The unit vectors of one row's space, each for all rows at once: ``[D, B, ...]``, in the memory of ``[D, D]``."""
    size = math.prod(y.shape[1:])
    units = torch.eye(size, dtype=y.dtype, device=y.device)
    return units.reshape(size, 1, *y.shape[1:]).expand(size, *y.shape)
