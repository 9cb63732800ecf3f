"""Jacobians of a vector field on packed states: dense, in blocks, or as products with vectors only."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import attrs
import numpy as np
import torch
from torch import Tensor

from odekit.core import lanes
from odekit.core.elimination import LARGEST, Elimination

Map = Callable[[Tensor], Tensor]

Size = Any
"""What a Jacobian is multiplied with: a float or complex number, or an array ``[B]`` of them, one a row."""


class Factored(Protocol):
    """I - h ∂f/∂y, ready to be solved with.

    ``whole`` says whether it is all of that matrix. Then the contraction of a Newton iteration tells how far the
    solution is; otherwise only the size of its updates does.
    """

    @property
    def whole(self) -> bool: ...

    def solve(self, right: Tensor) -> Tensor:
        """(I - h ∂f/∂y)⁻¹ right, for a right-hand side shaped like the packed state; complex if h is."""
        ...


class Linearised(Protocol):
    """∂f/∂y at one point."""

    def factored(self, h: Size) -> Factored:
        """I - h ∂f/∂y. ``h`` is real or complex; an array ``[B]`` has a value for every row of independent rows."""
        ...

    def adjoint(self) -> Linearised:
        """(∂f/∂y)ᴴ."""
        ...


class LU(NamedTuple):
    """LU factors of one dense matrix, or of one block a row."""

    lu: Tensor
    pivots: Tensor

    @property
    def whole(self) -> bool:
        return True

    @classmethod
    def of(cls, matrix: Tensor) -> LU:
        # A singular matrix gives infinities when solved with; whoever iterates then sees that it diverged.
        lu, pivots, _ = torch.linalg.lu_factor_ex(matrix)
        return cls(lu, pivots)

    def solve(self, right: Tensor) -> Tensor:
        shape = (right.shape[0], -1, 1) if self.lu.ndim == 3 else (-1, 1)
        columns = right.to(self.lu.dtype) if self.lu.is_complex() else right
        return torch.linalg.lu_solve(self.lu, self.pivots, columns.reshape(shape)).reshape(right.shape)


def factors_of(matrix: Tensor) -> LU | Elimination:
    """The factors of one dense matrix, or of one block a row.

    Within a graph those of the smallest are part of it, unless they are complex: operations on such are not fused.
    """
    small = torch.compiler.is_compiling() and 0 < matrix.shape[-1] <= LARGEST and not matrix.is_complex()
    return Elimination.of(matrix) if small else LU.of(matrix)


class Jacobian(NamedTuple):
    """∂f/∂y: ``[n, n]`` for the whole state, or ``[B, n, n]``, one block a row."""

    matrix: Tensor

    def factored(self, h: Size) -> LU | Elimination:
        matrix = self.matrix
        one = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        return factors_of(one - on_device(h, matrix) * matrix)

    def adjoint(self) -> Jacobian:
        return Jacobian(self.matrix.mH)

    def radius(self) -> Tensor:
        """A bound on the moduli of the eigenvalues, 0-d and real, detached: the smaller norm of rows and columns.

        Of blocks, the largest such number.
        """
        sizes = self.matrix.detach().abs()
        by_rows, by_columns = sizes.sum(-1).amax(-1), sizes.sum(-2).amax(-1)
        return torch.minimum(by_rows, by_columns).amax()


def on_device(h: Size, like: Tensor) -> Any:
    """``h`` as something that multiplies ``like`` without widening its precision; an array goes along the rows."""
    if not isinstance(h, np.ndarray):
        return h
    kind = like.dtype.to_complex() if np.iscomplexobj(h) else like.dtype.to_real()
    narrow = torch.from_numpy(np.ascontiguousarray(h, dtype=_NUMPY.get(kind, h.dtype)))
    return narrow.to(like.device, kind).reshape(-1, *[1] * (like.ndim - 1))


_NUMPY: dict[torch.dtype, Any] = {
    torch.float32: np.float32,
    torch.float16: np.float16,
    torch.complex64: np.complex64,
}


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


@attrs.frozen(eq=False)
class Products:
    """∂f/∂y as two products, ``push(v) = ∂f/∂y v`` and ``pull(v) = (∂f/∂y)ᴴ v``, for v shaped like the state."""

    push: Map
    pull: Map

    def adjoint(self) -> Products:
        return Products(self.pull, self.push)


def products(f: Map, y: Tensor) -> Products:
    """Products with the Jacobian of ``f`` at ``y``, detached.

    One call of f; a product is then one reverse pass, through f for ``pull`` and through its derivative for ``push``
    (``pull`` is linear, and ``push`` is its transpose). For a complex state f must be holomorphic.
    """
    with torch.no_grad():
        backwards = torch.func.vjp(f, y)[1]
        forwards = torch.func.vjp(lambda u: backwards(u)[0], torch.zeros_like(y))[1]
    return Products(
        _for_complex_vectors(lambda v: forwards(v)[0], y), _for_complex_vectors(lambda v: backwards(v)[0], y)
    )


def _for_complex_vectors(product: Map, y: Tensor) -> Map:
    """A real product, applied to the parts of a complex vector; a complex state's product as it is."""

    def apply(v: Tensor) -> Tensor:
        with torch.no_grad():
            if v.is_complex() and not y.is_complex():
                return torch.complex(product(v.real.contiguous()), product(v.imag.contiguous()))
            return product(v).detach()

    return apply


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
        return lanes.everywhere(~(pulled * ~masks).any())
