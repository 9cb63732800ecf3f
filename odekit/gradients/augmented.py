"""The augmented system that the adjoint method solves backwards, packed into one vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import attrs
import torch
from torch import Tensor, nn

from odekit.core.field import Field
from odekit.core.graph_field import Inlined
from odekit.core.graph_layout import GraphLayout, on_packed
from odekit.core.jacobian import Factored, Linearised, Size
from odekit.core.linear import Linear
from odekit.core.sections import Section
from odekit.core.times import Time
from odekit.gradients.coupled import Coupled, coupled

Check = Callable[[Sequence[Tensor], Sequence[Tensor]], None]


class Parts:
    """Where y, its adjoint a, and the integrals for the parameters lie in the packed vector."""

    def __init__(self, y: Tensor, tensors: list[Tensor]) -> None:
        self.shape, self.dtype, self.device = y.shape, y.dtype, y.device
        self.tensors = tensors
        self.sizes = [y.numel(), y.numel(), sum(tensor.numel() for tensor in tensors)]

    def join(self, y: Tensor, adjoint: Tensor, integrals: Tensor) -> Tensor:
        return torch.cat([y.reshape(-1), adjoint.reshape(-1), integrals])

    def pack(self, slopes: Sequence[Tensor | None]) -> Tensor:
        """The derivatives of y, of a and of every tensor's integral as a packed vector; None is zero."""
        sizes = [self.sizes[0], self.sizes[1], *(tensor.numel() for tensor in self.tensors)]
        return torch.cat(
            [
                torch.zeros(size, dtype=self.dtype, device=self.device)
                if slope is None
                else slope.detach().reshape(-1).to(self.device, self.dtype)
                for slope, size in zip(slopes, sizes, strict=True)
            ]
        )

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


class _Factored(NamedTuple):
    """What implicit stages of the augmented system are solved with."""

    parts: Parts
    state: Factored
    adjoint: Factored

    @property
    def whole(self) -> bool:
        return False

    def solve(self, right: Tensor) -> Tensor:
        y, adjoint, integrals = self.parts.split(right)
        shape = self.parts.shape
        return self.parts.join(
            self.state.solve(y.reshape(shape)), self.adjoint.solve(adjoint.reshape(shape)), integrals
        )


class _Linearised(NamedTuple):
    """The diagonal blocks J, -Jᴴ and 0 of the augmented Jacobian.

    The blocks below them couple y to a and both to the integrals, never back, so that a Newton iteration without
    them still converges, one block after the other, and no matrix grows with the number of parameters.
    """

    parts: Parts
    jacobian: Linearised

    def factored(self, h: Size) -> _Factored:
        return _Factored(self.parts, self.jacobian.factored(h), self.jacobian.adjoint().factored(-h))

    def adjoint(self) -> _Linearised:
        return _Linearised(self.parts, self.jacobian.adjoint())


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

    def confined(self, section: Section) -> Augmented:
        """The same system between two discontinuities of f; ``used`` and the counters are shared."""
        other = object.__new__(Augmented)
        other.__dict__.update(self.__dict__)
        other.field = self.field.confined(section)
        return other

    def times(self, values: Sequence[Time]) -> Sequence[Tensor]:
        return self.field.times(values)

    def inside(self, t: Time) -> bool:
        return self.field.inside(t)

    def rows_are_independent(self, t: Time, y: Tensor) -> bool:
        return self.field.rows_are_independent(t, self.parts.split(y)[0].reshape(self.parts.shape))

    def linearised(self, t: Time, y: Tensor, linear: Linear) -> Linearised:
        state = self.parts.split(y)[0].reshape(self.parts.shape)
        return _Linearised(self.parts, self.field.linearised(t, state, linear.exact()))

    def expanded(self, t: Time, y: Tensor, rows: bool) -> Coupled:
        return coupled(self.field, self.inputs, self.parts, t, y, rows)

    def inlined(self) -> Inlined | None:
        """What becomes part of a compiled graph, once it has been seen what f depends on."""
        inner = self.field.inlined() if any(self.used) or not self.inputs else None
        if inner is None:
            return None
        vjp = _functional(inner, self.inputs)
        form = tuple(self.parts.shape[1:]), self.parts.sizes[2], len(self.parts.shape) > 0
        slopes = GraphSlopes(vjp or _Recorded(inner), *form)
        args = inner.args, tuple(self.inputs)
        return attrs.evolve(inner, call=slopes, args=args, layout=None, expand=None, loops=vjp is not None)

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
        self.used[:] = [used or grad is not None for used, grad in zip(self.used, grads[1:], strict=True)]
        return parts.pack([dy, *grads])


class GraphSlopes:
    """The augmented system within a graph, where the length of the first axis of y is not known beforehand."""

    def __init__(self, vjp: Vjp, rest: tuple[int, ...], integrals: int, batched: bool) -> None:
        self.vjp, self.rest, self.integrals, self.batched = vjp, rest, integrals, batched

    def __call__(self, t: Tensor, z: Tensor, args: tuple[Any, ...], inputs: tuple[Tensor, ...]) -> Tensor:
        half = (z.shape[0] - self.integrals) // 2
        shape = (-1, *self.rest) if self.batched else ()
        state, adjoint = z[:half].reshape(shape), z[half : 2 * half].reshape(shape)
        dy, grads = self.vjp(t, state, args, inputs, adjoint.neg())
        parts = [dy]
        for grad, tensor in zip(grads, (state, *inputs), strict=True):
            parts.append(torch.zeros_like(tensor) if grad is None else grad)
        return torch.cat([part.detach().reshape(-1).to(z.dtype) for part in parts])


Vjp = Callable[[Tensor, Tensor, tuple[Any, ...], tuple[Tensor, ...], Tensor], tuple[Tensor, Sequence[Tensor | None]]]
"""f at ``(t, y, args)``, and the products of a cotangent with its derivatives by y and ``inputs``."""


class _Recorded:
    """By ``torch.autograd``, whatever f is."""

    def __init__(self, inner: Inlined) -> None:
        self.call, self.layout = inner.call, inner.layout

    def __call__(
        self, t: Tensor, y: Tensor, args: tuple[Any, ...], inputs: tuple[Tensor, ...], cotangent: Tensor
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            dy = on_packed(self.call, self.layout, t, y, args)
        return dy.detach(), torch.autograd.grad(dy, [y, *inputs], cotangent, allow_unused=True)


class _Functional:
    """By ``torch.func``, of a module whose parameters of these names are the inputs."""

    def __init__(self, module: nn.Module, layout: GraphLayout | None, names: tuple[str, ...]) -> None:
        self.module, self.layout, self.names = module, layout, names

    def __call__(
        self, t: Tensor, y: Tensor, args: tuple[Any, ...], inputs: tuple[Tensor, ...], cotangent: Tensor
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        def of(state: Tensor, *given: Tensor) -> Tensor:
            with_them = dict(zip(self.names, given, strict=True))

            def call(t: Tensor, y: Any, *args: Any) -> Any:
                return torch.func.functional_call(self.module, with_them, (t, y, *args))

            return on_packed(call, self.layout, t, state, args)

        dy, pull = cast(tuple[Tensor, Callable[[Tensor], Sequence[Tensor]]], torch.func.vjp(of, y, *inputs))
        return dy, pull(cotangent)


def _functional(inner: Inlined, inputs: Sequence[Tensor]) -> _Functional | None:
    """None if f is no module, or if it depends on anything but its parameters."""
    if not isinstance(inner.call, nn.Module):
        return None
    names = {id(parameter): name for name, parameter in inner.call.named_parameters()}
    if not all(id(tensor) in names for tensor in inputs):
        return None
    return _Functional(inner.call, inner.layout, tuple(names[id(tensor)] for tensor in inputs))
