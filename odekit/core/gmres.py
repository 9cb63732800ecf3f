"""GMRES: linear systems solved from products with the matrix alone."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from odekit.core import lanes
from odekit.core.jacobian import Map
from odekit.errors import GradientError


@attrs.frozen(eq=False)
class Krylov:
    """A x = right for ``x`` shaped like ``right``, solved by restarted GMRES. Saad & Schultz 1986, Algorithm 4.

    With ``rows`` every row has a Krylov space of its own, and what comes out for it does not depend on the others.

    Attributes:
        product, adjoint_product: x ↦ A x and x ↦ Aᴴ x.
        restart: the largest dimension of a Krylov space.
        max_restarts: how many of them follow each other at most.
        unit: the residual that every component may be left with, in root mean square; the caller finds out from what it
            does with the solution whether that was reached. Without it the solution must be one almost to rounding.
    """

    product: Map
    adjoint_product: Map
    rows: bool
    restart: int
    max_restarts: int
    unit: Tensor | None

    @property
    def whole(self) -> bool:
        return True

    def solve(self, right: Tensor) -> Tensor:
        if lanes.transformed():
            raise GradientError(
                "linear='gmres' does not work inside functions that torch.func transforms; use linear='dense' there"
            )
        return _Solve.apply(right, self)

    def adjoint(self) -> Krylov:
        return attrs.evolve(self, product=self.adjoint_product, adjoint_product=self.product)

    def run(self, right: Tensor) -> Tensor:
        """The solution, without derivatives.

        Raises:
            GradientError: without ``unit``, where the residual is not below the root of the rounding unit.
        """
        shape = (right.shape[0], -1) if self.rows else (1, -1)
        unit = 1.0 if self.unit is None else self.unit.expand(right.shape).reshape(shape)

        def scaled(v: Tensor) -> Tensor:
            return self.product((v * unit).reshape(right.shape)).reshape(shape) / unit

        start = right.reshape(shape) / unit
        first = _norms(start)
        rounding = torch.finfo(right.dtype).eps
        goal = rounding**0.75 * first if self.unit is None else np.full_like(first, start.shape[1] ** 0.5)
        x, residual, left = torch.zeros_like(start), start, first
        for _ in range(self.max_restarts):
            if not bool((left > goal).any()):
                break
            x = x + _cycle(scaled, residual, left, goal, self.restart)
            residual = start - scaled(x)
            left = _norms(residual)
        if self.unit is None and not bool((left <= rounding**0.5 * first).all()):
            raise GradientError(
                f"GMRES left {float(np.max(left / np.maximum(first, 1e-300))):.1e} of the right-hand side of the "
                "linear system behind a gradient; raise its restart= or max_restarts=, or choose linear='dense'"
            )
        return (x * unit).reshape(right.shape)


def _norms(x: Tensor) -> np.ndarray:
    return np.asarray(torch.linalg.vector_norm(x, dim=1).tolist())


def _cycle(product: Map, residual: Tensor, size: np.ndarray, goal: np.ndarray, restart: int) -> Tensor:
    """The best x in one Krylov space a row, ``[B, n]``: every row stops to grow when it is as close as it should be."""
    rows, n = residual.shape
    steps = min(restart, n)
    floor = np.where(size > 0, size, 1.0)
    basis = [residual / _column(floor, residual)]
    hessenberg = np.zeros((rows, steps + 1, steps), dtype=np.complex128 if residual.is_complex() else np.float64)
    best = np.zeros((rows, steps), dtype=hessenberg.dtype)
    open_ = size > goal
    for j in range(steps):
        w = product(basis[j])
        known = torch.stack(basis)
        column: Any = 0.0
        for _ in range(2):  # orthogonalised twice, which is enough: Giraud et al. 2005
            part = torch.einsum("jbn,bn->bj", known.conj(), w)
            w = w - torch.einsum("jbn,bj->bn", known, part)
            column = column + np.asarray(part.tolist())
        length = _norms(w)
        hessenberg[:, : j + 1, j] = column
        hessenberg[:, j + 1, j] = length
        q, r = np.linalg.qr(hessenberg[:, : j + 2, : j + 1], mode="complete")
        first = q[:, 0, :].conj() * size[:, None]
        usable = open_ & np.isfinite(length) & (np.abs(np.diagonal(r, axis1=1, axis2=2)).min(1) > 0)
        for b in np.flatnonzero(usable):
            best[b] = 0
            best[b, : j + 1] = np.linalg.solve(r[b, : j + 1], first[b, : j + 1])
        open_ = usable & (np.abs(first[:, j + 1]) > goal) & (length > 1e-14 * np.abs(hessenberg[:, :, j]).max(1))
        if not open_.any() or j + 1 == steps:
            break
        basis.append(w / _column(np.where(length > 0, length, 1.0), w))
    weights = torch.tensor(best[:, : len(basis)].tolist(), dtype=residual.dtype, device=residual.device)
    return torch.einsum("jbn,bj->bn", torch.stack(basis), weights)


def _column(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.tensor(values.tolist(), dtype=like.real.dtype, device=like.device)[:, None]


class _Solve(torch.autograd.Function):
    """The solution as a linear function of the right-hand side; its transpose is the adjoint system's solution."""

    @staticmethod
    def forward(right: Tensor, system: Krylov) -> Tensor:
        return system.run(right)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Krylov], output: Tensor) -> None:
        ctx.system = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.system.adjoint().run(grad), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return ctx.system.run(tangent)
