"""The augmented system to first order, with all its couplings: what Rosenbrock steps of the adjoint method stand on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import attrs
import torch
from torch import Tensor

from odekit.core.field import Field
from odekit.core.jacobian import Factored, Jacobian
from odekit.core.linear import Dense, Rows
from odekit.core.times import Time, host

if TYPE_CHECKING:
    from odekit.gradients.augmented import Parts


class Products:
    """J v for the Jacobian J of ``outputs`` with respect to ``inputs``, out of the graph that they already have.

    The map w -> Jᵀ w is built once; its own derivative along v is J v.
    """

    def __init__(self, outputs: Sequence[Tensor | None], inputs: Sequence[Tensor]) -> None:
        self._places = [i for i, x in enumerate(outputs) if x is not None and x.requires_grad]
        self._count = len(outputs)
        moving = [x for x in outputs if x is not None and x.requires_grad]
        self._weights = [torch.zeros_like(x).requires_grad_() for x in moving]
        self._pulled: Sequence[Tensor | None] = [None] * len(inputs)
        if moving:
            self._pulled = torch.autograd.grad(moving, inputs, self._weights, allow_unused=True, create_graph=True)

    def along(self, *directions: Tensor | None) -> list[Tensor | None]:
        """J v for v = ``directions``, one for each input; None stands for zero, in what comes back too."""
        found: list[Tensor | None] = [None] * self._count
        pairs = [
            (pulled, along)
            for pulled, along in zip(self._pulled, directions, strict=True)
            if pulled is not None and pulled.requires_grad and along is not None
        ]
        if pairs:
            pulled, along = zip(*pairs, strict=True)
            products = torch.autograd.grad(pulled, self._weights, along, allow_unused=True, retain_graph=True)
            for place, product in zip(self._places, products, strict=True):
                found[place] = product
        return found


@attrs.frozen(eq=False)
class Substituted:
    """I - h J of the augmented system, block lower triangular: solved for y, then for a, then for the integrals."""

    parts: Parts
    h: float
    state: Factored
    adjoint: Factored
    products: Products

    def solve(self, right: Tensor) -> Tensor:
        parts = self.parts
        y, adjoint, integrals = parts.split(right)
        v = self.state.solve(y.reshape(parts.shape))
        coupled = parts.split(parts.pack(self.products.along(None, v, None)))[1]
        a = self.adjoint.solve((adjoint + self.h * coupled).reshape(parts.shape))
        moved = parts.split(parts.pack(self.products.along(None, v, a)))[2]
        return parts.join(v, a, integrals + self.h * moved)


@attrs.frozen(eq=False)
class Coupled:
    """The augmented system near a point: its slopes there, their derivative by time, and its Jacobian."""

    value: Tensor
    by_time: Tensor
    parts: Parts
    jacobian: Jacobian
    products: Products

    def radius(self) -> Tensor:
        """The eigenvalues are those of J, of -Jᴴ, and 0."""
        return self.jacobian.radius()

    def factored(self, h: Time, like: Tensor) -> Substituted:
        size: float = host(h)
        jacobian = self.jacobian
        return Substituted(self.parts, size, jacobian.factored(size), jacobian.adjoint().factored(-size), self.products)


def coupled(field: Field, inputs: list[Tensor], parts: Parts, t: Time, y: Tensor, rows: bool) -> Coupled:
    """To first order around ``(t, y)``: two calls of f, and no matrix that grows with the number of parameters."""
    with torch.enable_grad():
        time = field.times((t,))[0].detach().requires_grad_()
        state, adjoint = (x.detach().reshape(parts.shape).requires_grad_() for x in parts.split(y)[:2])
        dy = field(time, state)
        grads: Sequence[Tensor | None] = [None] * (1 + len(inputs))
        if dy.requires_grad:
            grads = torch.autograd.grad(dy, [state, *inputs], adjoint.neg(), allow_unused=True, create_graph=True)
        slopes = [dy, *grads]
        products = Products(slopes, [time, state, adjoint])
    by_time = parts.pack(products.along(torch.ones_like(time), None, None))
    matrix = cast(Jacobian, field.linearised(t, state.detach(), Rows() if rows else Dense()))
    return Coupled(parts.pack(slopes), by_time, parts, matrix, products)
