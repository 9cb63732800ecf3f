"""A vector field to first order around a point: its value, ∂f/∂t and ∂f/∂y, from one call and differentiable."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from odekit.core.elimination import Elimination
from odekit.core.jacobian import LU, Jacobian, factors_of
from odekit.core.times import Time, coefficient


class Solvable(Protocol):
    """I - h ∂f/∂y, ready to be solved with; derivatives flow through it."""

    def solve(self, right: Tensor) -> Tensor: ...


class Expansion(Protocol):
    """f near (t, y): its value and ∂f/∂t there, both shaped like y, and I - h ∂f/∂y, all of it."""

    @property
    def value(self) -> Tensor: ...

    @property
    def by_time(self) -> Tensor: ...

    def factored(self, h: Time, like: Tensor) -> Solvable:
        """The factors of I - h ∂f/∂y, for right-hand sides like ``like``."""
        ...

    def radius(self) -> Tensor:
        """A bound on the moduli of the eigenvalues of ∂f/∂y, 0-d and real, detached."""
        ...


class Expanded(NamedTuple):
    """An expansion whose ``matrix`` ∂f/∂y is ``[n, n]`` for the whole state, or ``[B, n, n]``, one block a row."""

    value: Tensor
    by_time: Tensor
    matrix: Tensor

    def factored(self, h: Time, like: Tensor) -> LU | Elimination:
        size = coefficient(h, like)
        if isinstance(size, Tensor) and size.ndim:
            size = size.reshape(-1, 1, 1)
        one = torch.eye(self.matrix.shape[-1], dtype=self.matrix.dtype, device=self.matrix.device)
        return factors_of(one - size * self.matrix)

    def radius(self) -> Tensor:
        return Jacobian(self.matrix).radius()


def expand(f: Callable[[Tensor, Tensor], Tensor], t: Tensor, y: Tensor, rows: bool) -> Expanded:
    """f to first order around ``(t, y)``, at the cost of one call.

    ∂f/∂y is one reverse pass that a batch of unit vectors rides together; with ``rows`` it is made of blocks, which is
    right only where row b of f depends on row b of y alone. ∂f/∂t comes along where every unit vector has a time of its
    own. Where rows share their time, or the state is complex while time is real, it is read off the other way round, as
    the derivative of the linear map u -> uᵀ ∂f/∂t. For a complex state f must be holomorphic in y.
    """
    one = y[:1] if rows else y
    n = one.numel()
    units = torch.eye(n, dtype=y.dtype, device=y.device).reshape(n, *one.shape).expand(n, *y.shape)
    value, pull = torch.func.vjp(f, t, y)[:2]
    by_times, pulled = _pulled(pull, units)
    matrix = pulled.reshape(n, y.shape[0], n).transpose(0, 1) if rows else pulled.reshape(n, n)
    if y.is_complex() or (rows and t.ndim == 0):
        (by_time,) = torch.func.vjp(lambda along: pull(along)[0], torch.zeros_like(value))[1](torch.ones_like(t))
    else:
        by_time = (by_times.reshape(n, y.shape[0]).T if rows else by_times).reshape(value.shape)
    return Expanded(value, by_time, matrix.conj().resolve_conj())


_FEW = 16
"""So many reverse passes are written out in a graph, where a batch of them would tie it to the number of rows."""


def _pulled(pull: Callable[[Tensor], tuple[Tensor, Tensor]], units: Tensor) -> tuple[Tensor, Tensor]:
    """What the reverse pass gives for time and state, for all unit vectors."""
    if not torch.compiler.is_compiling() or len(units) > _FEW:
        by_times, pulled = torch.func.vmap(pull)(units)
        return by_times, pulled
    both = [pull(unit) for unit in units]
    return torch.stack([by_time for by_time, _ in both]), torch.stack([by_state for _, by_state in both])
