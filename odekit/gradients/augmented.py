"""The augmented system that the adjoint method solves backwards, packed into one vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import torch
from torch import Tensor

from odekit.core.field import Field
from odekit.core.jacobian import LU, Jacobian
from odekit.core.times import Time

Check = Callable[[Sequence[Tensor], Sequence[Tensor]], None]


class Parts:
    """Where y, its adjoint a, and the integrals for the parameters lie in the packed vector."""

    def __init__(self, y: Tensor, tensors: list[Tensor]) -> None:
        self.shape, self.dtype, self.device = y.shape, y.dtype, y.device
        self.tensors = tensors
        self.sizes = [y.numel(), y.numel(), sum(tensor.numel() for tensor in tensors)]

    def join(self, y: Tensor, adjoint: Tensor, integrals: Tensor) -> Tensor:
        return torch.cat([y.reshape(-1), adjoint.reshape(-1), integrals])

    def split(self, z: Tensor) -> tuple[Tensor, ...]:
        return z.split(self.sizes)

    def no_integrals(self) -> Tensor:
        return torch.zeros(self.sizes[2], dtype=self.dtype, device=self.device)

    def spread(self, tolerance: float | Tensor) -> float | Tensor:
        """A tolerance for y as one for the packed vector; the integrals get the smallest."""
        if not isinstance(tolerance, Tensor):
            return tolerance
        flat = tolerance.reshape(-1)
        return torch.cat([flat, flat, flat.min().expand(self.sizes[2])])

    def gradients(self, integrals: Tensor) -> list[Tensor]:
        """The integrals as gradients, each in its tensor's shape, dtype and place."""
        parts = integrals.split([tensor.numel() for tensor in self.tensors])
        real = [part if tensor.is_complex() else part.real for part, tensor in zip(parts, self.tensors, strict=True)]
        return [
            part.reshape(tensor.shape).to(tensor.device, tensor.dtype)
            for part, tensor in zip(real, self.tensors, strict=True)
        ]


@attrs.frozen(eq=False)
class _Factored:
    """What implicit stages of the augmented system are solved with."""

    parts: Parts
    state: LU
    adjoint: LU

    whole = False

    def solve(self, right: Tensor) -> Tensor:
        y, adjoint, integrals = self.parts.split(right)
        shape = self.parts.shape
        return self.parts.join(
            self.state.solve(y.reshape(shape)), self.adjoint.solve(adjoint.reshape(shape)), integrals
        )


@attrs.frozen(eq=False)
class _Linearised:
    """The diagonal blocks J, -Jᴴ and 0 of the augmented Jacobian.

    The blocks below them couple y to a and both to the integrals, never back, so that a Newton iteration without
    them still converges, one block after the other, and no matrix grows with the number of parameters.
    """

    parts: Parts
    jacobian: Jacobian

    def factored(self, h: float) -> _Factored:
        return _Factored(self.parts, self.jacobian.factored(h), self.jacobian.factored_adjoint(-h))


class Augmented:
    """d/dt [y, a, g] = [f, -aᵀ∂f/∂y, -aᵀ∂f/∂θ] on the packed vector. Chen et al. 2018, Appendix B.

    Attributes:
        check: is told, at every evaluation, what f gave and all tensors with respect to which that is differentiated.
        used: tells which of ``inputs`` f has been seen to depend on.
    """

    def __init__(self, field: Field, inputs: list[Tensor], parts: Parts, check: Check) -> None:
        self.field = field
        self.inputs = inputs
        self.parts = parts
        self.check = check
        self.used = [False] * len(inputs)

    @property
    def nfe(self) -> int:
        return self.field.nfe

    @property
    def jacobians(self) -> int:
        return self.field.jacobians

    def times(self, values: Sequence[Time]) -> Sequence[Tensor]:
        return self.field.times(values)

    def rows_are_independent(self, t: Time, y: Tensor) -> bool:
        return self.field.rows_are_independent(t, self.parts.split(y)[0].reshape(self.parts.shape))

    def linearised(self, t: Time, y: Tensor, rows: bool) -> _Linearised:
        state = self.parts.split(y)[0].reshape(self.parts.shape)
        return _Linearised(self.parts, self.field.linearised(t, state, rows))

    def __call__(self, t: Time, y: Tensor) -> Tensor:
        parts = self.parts
        state, adjoint, _ = parts.split(y)
        with torch.enable_grad():
            state = state.reshape(parts.shape).requires_grad_()
            dy = self.field(t, state)
        backwards = adjoint.reshape(parts.shape).neg()
        wrt = [state, *self.inputs]
        self.check([dy], wrt)
        grads: Sequence[Tensor | None] = [None] * len(wrt)
        if dy.requires_grad:
            grads = torch.autograd.grad(dy, wrt, backwards, allow_unused=True, retain_graph=True)
        self.used = [used or grad is not None for used, grad in zip(self.used, grads[1:], strict=True)]
        flat = [
            (torch.zeros_like(tensor) if grad is None else grad).reshape(-1).to(parts.device, parts.dtype)
            for tensor, grad in zip(wrt, grads, strict=True)
        ]
        return torch.cat([dy.detach().reshape(-1), *flat])
