"""How the linear systems of implicit steps are solved: by dense factors, by a block for every row, or by GMRES."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import attrs
import numpy as np
import optree
import torch
from torch import Tensor

from odekit.core.gmres import Krylov
from odekit.core.jacobian import LU, Factored, Jacobian, Linearised, Map, Products, Size, jacobian, on_device, products
from odekit.core.tolerance import Tolerance
from odekit.errors import InputError, nearest


class Linear(ABC):
    """A way to solve with I - h ∂f/∂y.

    Class attributes:
        keeps: whether a Jacobian made in one step may serve the next ones. It is then a tree of tensors (optree), each
            of them ``[B, ...]`` where rows are apart.
    """

    keeps: ClassVar[bool] = True

    def settled(self, rows_are_independent: Callable[[], bool]) -> Linear:
        """This way for one solve, in which rows interact or not; finding out may cost a call of f."""
        return self

    def by_row(self) -> Linear:
        """This way where every row has a step of its own."""
        return self

    def prepared(self, enough: Tolerance) -> Linear:
        """This way for systems of which a solution with a residual of ``enough`` will do."""
        return self

    def exact(self) -> Linear:
        """This way for systems that must be solved to rounding, such as those behind a gradient."""
        return self

    def merged(self, rows: np.ndarray, new: Any, old: Any) -> Any:
        """The Jacobian that is ``new`` in these ``rows`` and ``old`` in the others, of independent rows."""
        return optree.tree_map(lambda a, b: on_rows(rows, a, b) if isinstance(a, Tensor) else a, new, old)

    @abstractmethod
    def linearised(self, f: Map, y: Tensor) -> Linearised:
        """∂f/∂y at ``y``, detached. One call of f."""

    @abstractmethod
    def coupled(self, parts: Sequence[Any], weights: np.ndarray) -> Factored:
        """I - [h_ij J_j] for s stages, to be solved with a right-hand side ``[s, *state]``.

        Args:
            parts: J_j, s of them, as made by :meth:`linearised`.
            weights: h_ij, ``[s, s]``, or ``[B, s, s]`` for rows with steps of their own.
        """


@attrs.frozen
class Dense(Linear):
    """One matrix ``[N, N]`` for the whole state of N numbers, factored by LU."""

    def by_row(self) -> Linear:
        return Rows()

    def linearised(self, f: Map, y: Tensor) -> Jacobian:
        return jacobian(f, y, rows=False)

    def coupled(self, parts: Sequence[Jacobian], weights: np.ndarray) -> Factored:
        return _coupled(parts, weights)


@attrs.frozen
class Rows(Linear):
    """A block ``[n, n]`` for each row of a state ``[B, ...]`` whose rows do not interact, factored by batched LU."""

    def linearised(self, f: Map, y: Tensor) -> Jacobian:
        return jacobian(f, y, rows=True)

    def coupled(self, parts: Sequence[Jacobian], weights: np.ndarray) -> Factored:
        return _coupled(parts, weights)


@attrs.frozen
class Auto(Linear):
    """``Rows`` if, at the start of the solve, the rows of a batch do not interact; otherwise ``Dense``.

    Costs one more evaluation of a batch. Say ``"dense"`` if rows begin to interact only later.
    """

    def settled(self, rows_are_independent: Callable[[], bool]) -> Linear:
        return Rows() if rows_are_independent() else Dense()

    def by_row(self) -> Linear:
        return Rows()

    def linearised(self, f: Map, y: Tensor) -> Jacobian:
        raise InputError("linear='auto' is settled at the start of a solve; use 'rows' or 'dense' for a single system")

    def coupled(self, parts: Sequence[Jacobian], weights: np.ndarray) -> Factored:
        return _coupled(parts, weights)


def _at_least_one(instance: Any, attribute: Any, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{attribute.name}={value!r}: expected an integer >= 1")


@attrs.frozen
class GMRES(Linear):
    """No matrix at all: GMRES on products with the Jacobian, each of them one reverse pass and no call of f.

    For states so large that their Jacobian is not to be had. There is no preconditioner, so it serves where h ∂f/∂y has
    few large eigenvalues. Rows that do not interact have Krylov spaces of their own. In a Newton iteration a residual
    below a twentieth of what the iteration may leave is small enough; behind a gradient, one of the order of rounding.
    Saad & Schultz 1986, *GMRES*; the weights and the twentieth as in Brown & Hindmarsh 1989, *Reduced storage matrix
    methods in stiff ODE systems*.

    Attributes:
        restart: the largest dimension of a Krylov space.
        max_restarts: how many of them follow each other at most.
    """

    restart: int = attrs.field(default=30, validator=_at_least_one)
    max_restarts: int = attrs.field(default=10, validator=_at_least_one)
    _rows: bool = attrs.field(default=False, kw_only=True)
    _enough: Tolerance | None = attrs.field(default=None, kw_only=True)

    keeps = False

    def settled(self, rows_are_independent: Callable[[], bool]) -> Linear:
        return attrs.evolve(self, rows=rows_are_independent())

    def by_row(self) -> Linear:
        return attrs.evolve(self, rows=True)

    def prepared(self, enough: Tolerance) -> Linear:
        return attrs.evolve(self, enough=enough)

    def exact(self) -> Linear:
        return attrs.evolve(self, enough=None)

    def linearised(self, f: Map, y: Tensor) -> Linearised:
        unit = None if self._enough is None else self._enough.scale(y)
        return _Free(products(f, y), self, unit)

    def coupled(self, parts: Sequence[Any], weights: np.ndarray) -> Factored:
        pushes, pulls = [part.products.push for part in parts], [part.products.pull for part in parts]

        def product(v: Tensor) -> Tensor:
            return v - _mixed(weights, torch.stack([push(x) for push, x in zip(pushes, v, strict=True)]))

        def adjoint(v: Tensor) -> Tensor:
            mixed = _mixed(np.swapaxes(weights, -1, -2), v)
            return v - torch.stack([pull(x) for pull, x in zip(pulls, mixed, strict=True)])

        if not self._rows:
            return self.krylov(product, adjoint, parts[0].unit)
        return _Turned(self.krylov(_turned(product), _turned(adjoint), parts[0].unit))

    def merged(self, rows: np.ndarray, new: _Free, old: _Free) -> _Free:
        def either(a: Map, b: Map) -> Map:
            return lambda v: on_rows(rows, a(v), b(v))

        both = Products(either(new.products.push, old.products.push), either(new.products.pull, old.products.pull))
        return attrs.evolve(new, products=both)

    def krylov(self, product: Map, adjoint: Map, unit: Tensor | None) -> Krylov:
        """The system with this product, solved as accurately as this object says."""
        return Krylov(product, adjoint, self._rows, self.restart, self.max_restarts, unit)


@attrs.frozen(eq=False)
class _Free:
    """A Jacobian of which there are products only."""

    products: Products
    how: GMRES
    unit: Tensor | None

    def adjoint(self) -> _Free:
        return attrs.evolve(self, products=self.products.adjoint())

    def factored(self, h: Size) -> Krylov:
        push, pull = self.products.push, self.products.pull
        return self.how.krylov(
            lambda v: v - on_device(h, v) * push(v), lambda v: v - on_device(np.conj(h), v) * pull(v), self.unit
        )


@attrs.frozen(eq=False)
class _Turned:
    """A system on ``[B, s, ...]`` as one on ``[s, B, ...]``."""

    system: Krylov

    whole = True

    def solve(self, right: Tensor) -> Tensor:
        return self.system.solve(right.transpose(0, 1).contiguous()).transpose(0, 1)


def _turned(product: Map) -> Map:
    return lambda v: product(v.transpose(0, 1)).transpose(0, 1)


def on_rows(rows: np.ndarray, a: Tensor, b: Tensor) -> Tensor:
    """``a`` in the rows that ``rows [B]`` marks, ``b`` in the others."""
    return torch.where(torch.from_numpy(np.ascontiguousarray(rows)).to(a.device).reshape(-1, *[1] * (a.ndim - 1)), a, b)


def _mixed(weights: np.ndarray, v: Tensor) -> Tensor:
    """Σ_j h_ij v_j for v ``[s, *state]``."""
    if weights.ndim == 2:
        return torch.tensordot(torch.tensor(weights.tolist(), dtype=v.dtype, device=v.device), v, dims=1)
    rows = torch.tensor(weights.tolist(), dtype=v.dtype, device=v.device)
    return torch.einsum("bij,jb...->ib...", rows, v)


def _coupled(parts: Sequence[Jacobian], weights: np.ndarray) -> Factored:
    like = parts[0].matrix
    s, n = len(parts), like.shape[-1]
    h = torch.tensor(weights.tolist(), dtype=like.dtype, device=like.device)
    stacked = torch.stack([part.matrix for part in parts], -3)  # [s, n, n] or [B, s, n, n]
    blocks = h[..., :, None, :, None] * stacked.transpose(-3, -2)[..., None, :, :, :]
    whole = blocks.reshape(*like.shape[:-2], s * n, s * n)
    one = torch.eye(s * n, dtype=like.dtype, device=like.device)
    return _Stacked(LU.of(one - whole), rows=like.ndim == 3)


@attrs.frozen(eq=False)
class _Stacked:
    """Factors of the coupled stages, for right-hand sides ``[s, *state]``."""

    factors: LU
    rows: bool

    whole = True

    def solve(self, right: Tensor) -> Tensor:
        if not self.rows:
            return self.factors.solve(right)
        turned = right.transpose(0, 1)
        return self.factors.solve(turned).transpose(0, 1)


_WAYS: dict[str, Linear] = {"auto": Auto(), "dense": Dense(), "rows": Rows(), "gmres": GMRES()}


def resolve_linear(linear: str | Linear) -> Linear:
    """A way by its name, or the given one itself.

    Raises:
        InputError: it is neither.
    """
    if isinstance(linear, Linear):
        return linear
    if not isinstance(linear, str) or linear.lower() not in _WAYS:
        raise InputError(
            f"linear={linear!r:.80} is not known. {nearest(str(linear), _WAYS)} "
            "An object such as GMRES(restart=50) works too."
        )
    return _WAYS[linear.lower()]
