"""Jacobians of a vector field on packed states, made in one batched pass, and the linear systems of implicit stages."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import attrs
import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]


class Factored(Protocol):
    """I - h ∂f/∂y, ready to be solved with.

    ``whole`` says whether it is all of that matrix. Then the contraction of a Newton iteration tells how far the
    solution is; otherwise only the size of its updates does.
    """

    @property
    def whole(self) -> bool: ...

    def solve(self, right: Tensor) -> Tensor:
        """(I - h ∂f/∂y)⁻¹ right, for a right-hand side shaped like the packed state."""
        ...


class Linearised(Protocol):
    """∂f/∂y at one point."""

    def factored(self, h: float) -> Factored: ...


@attrs.frozen(eq=False)
class LU:
    """LU factors of one dense matrix, or of one block a row."""

    lu: Tensor
    pivots: Tensor

    whole = True

    @classmethod
    def of(cls, matrix: Tensor) -> LU:
        # A singular matrix gives infinities when solved with; whoever iterates then sees that it diverged.
        lu, pivots, _ = torch.linalg.lu_factor_ex(matrix)
        return cls(lu, pivots)

    def solve(self, right: Tensor) -> Tensor:
        shape = (right.shape[0], -1, 1) if self.lu.ndim == 3 else (-1, 1)
        return torch.linalg.lu_solve(self.lu, self.pivots, right.reshape(shape)).reshape(right.shape)


@attrs.frozen(eq=False)
class Jacobian:
    """∂f/∂y: ``[n, n]`` for the whole state, or ``[B, n, n]``, one block a row."""

    matrix: Tensor

    def factored(self, h: float) -> LU:
        return LU.of(self._one() - h * self.matrix)

    def factored_adjoint(self, h: float) -> LU:
        """The factors of I - h (∂f/∂y)ᴴ."""
        return LU.of(self._one() - h * self.matrix.mH)

    def _one(self) -> Tensor:
        return torch.eye(self.matrix.shape[-1], dtype=self.matrix.dtype, device=self.matrix.device)


def jacobian(f: Map, y: Tensor, rows: bool) -> Jacobian:
    """The Jacobian of ``f`` at ``y``, detached.

    One call of f, then one reverse pass that a batch of unit vectors rides together. Blocks (``rows``) are right only
    where row b of f depends on row b of y alone; then one unit vector serves all rows at once. For a complex state f
    must be holomorphic.
    """
    one = y[:1] if rows else y
    n = one.numel()
    units = torch.eye(n, dtype=y.dtype, device=y.device).reshape(n, *one.shape).expand(n, *y.shape)
    with torch.no_grad():
        pull = torch.func.vjp(f, y)[1]
        (pulled,) = torch.func.vmap(pull)(units)
    matrix = pulled.reshape(n, y.shape[0], n).transpose(0, 1) if rows else pulled.reshape(n, n)
    return Jacobian(matrix.conj().resolve_conj())


def rows_are_independent(f: Map, y: Tensor) -> bool:
    """Whether row b of ``f`` depends on row b of ``y`` only, judged at ``y``.

    For every bit of the row number, cotangents on the rows where it is set, and on those where it is not, must leave
    the other rows' gradients exactly zero; any two rows differ in some bit. One call of f and one batched reverse pass.
    """
    if y.ndim < 2 or y.shape[0] < 2 or math.prod(y.shape[1:]) == 0:
        return False
    numbers = torch.arange(y.shape[0], device=y.device)
    bits = [(numbers >> bit) & 1 for bit in range((y.shape[0] - 1).bit_length())]
    masks = torch.stack([mask == value for mask in bits for value in (0, 1)])
    masks = masks.reshape(*masks.shape, *[1] * (y.ndim - 1))
    weights = torch.linspace(1.0, 2.0, y.numel(), dtype=y.real.dtype, device=y.device).reshape(y.shape).to(y.dtype)
    with torch.no_grad():
        pull = torch.func.vjp(f, y)[1]
        (pulled,) = torch.func.vmap(pull)(masks * weights)
        return not bool((pulled * ~masks).any())
