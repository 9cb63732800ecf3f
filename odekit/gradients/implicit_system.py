"""∂f/∂y at a steady state, to be solved with: dense, in blocks, or by products alone."""

from __future__ import annotations

from typing import Protocol

import attrs
import torch
from torch import Tensor

from odekit.core.field import Field
from odekit.core.gmres import Krylov
from odekit.core.jacobian import LU, jacobian, products, rows_are_independent
from odekit.core.linear import GMRES, Auto, Dense, Linear, Rows
from odekit.core.times import Time
from odekit.errors import GradientError, InputError

_LARGE = 1000
"""From how many numbers on a Jacobian is not formed, unless the caller insists."""


def as_real(y: Tensor) -> Tensor:
    """A complex tensor as its real and imaginary parts along a last axis; a real one as it is."""
    return torch.view_as_real(y.resolve_conj()) if y.is_complex() else y


def like(u: Tensor, y: Tensor) -> Tensor:
    """The inverse of :func:`as_real`, for a ``y`` of the wanted kind."""
    return torch.view_as_complex(u.contiguous()) if y.is_complex() else u


@attrs.frozen(eq=False)
class Map:
    """y ↦ f(t, y) between real tensors, so that f need not be holomorphic."""

    field: Field
    t: Time
    kind: Tensor

    def __call__(self, u: Tensor) -> Tensor:
        return as_real(self.field(self.t, like(u, self.kind)))


class System(Protocol):
    """J = ∂f/∂y, for vectors shaped like the real state."""

    def solve(self, right: Tensor) -> Tensor:
        """J⁻¹ right."""
        ...

    def solve_transposed(self, right: Tensor) -> Tensor:
        """J⁻ᵀ right."""
        ...


@attrs.frozen(eq=False)
class _Factored:
    matrix: Tensor

    def solve(self, right: Tensor) -> Tensor:
        return LU.of(self.matrix).solve(right)

    def solve_transposed(self, right: Tensor) -> Tensor:
        return LU.of(self.matrix.mT).solve(right)


@attrs.frozen(eq=False)
class _Free:
    system: Krylov

    def solve(self, right: Tensor) -> Tensor:
        return self.system.run(right)

    def solve_transposed(self, right: Tensor) -> Tensor:
        return self.system.adjoint().run(right)


def system(f: Map, u: Tensor, linear: Linear) -> System:
    """The Jacobian of ``f`` at ``u``.

    Raises:
        GradientError: it is singular, to rounding.
    """
    independent = isinstance(linear, Auto | GMRES) and rows_are_independent(f, u)
    if isinstance(linear, Auto):
        size = u[0].numel() if independent else u.numel()
        linear = GMRES() if size > _LARGE else Rows() if independent else Dense()
    if isinstance(linear, GMRES):
        both = products(f, u)
        rows = attrs.evolve(linear, rows=independent)
        return _Free(rows.krylov(both.push, both.pull, None))
    if not isinstance(linear, Dense | Rows):
        raise InputError(f"linear={linear!r:.80}: expected 'auto', 'dense', 'rows', 'gmres', or an object of these")
    matrix = jacobian(f, u, isinstance(linear, Rows)).matrix
    _check_regular(matrix)
    return _Factored(matrix)


def _check_regular(matrix: Tensor) -> None:
    inverse, _ = torch.linalg.inv_ex(matrix)
    condition = torch.linalg.matrix_norm(matrix, 1) * torch.linalg.matrix_norm(inverse, 1)
    if not bool((condition * torch.finfo(matrix.dtype).eps < 1).all()):
        raise GradientError(
            "gradient='implicit' needs a steady state that is isolated, but ∂f/∂y is singular there: it is one of "
            "many, as where something is conserved, or there is a bifurcation. Take conserved quantities out of the "
            "state, or use gradient='checkpointed'"
        )
