"""A vector field that keeps nothing of a call for the backward pass but where it was called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from odekit.core.field import Field
from odekit.core.times import Time
from odekit.gradients.captured import Dependencies
from odekit.gradients.products import vjp


class Recomputed(Field):
    """A field whose calls are made without gradients, and once more, with them, when their cotangent arrives.

    Args:
        field: the field itself; it counts the calls of both kinds.
        dependencies: for telling whether f uses a tensor that is not among the inputs.
        inputs: what the field depends on beside time and state.
        method: the name of the gradient method, for messages.
    """

    def __init__(self, field: Field, dependencies: Dependencies, inputs: Sequence[Tensor], method: str) -> None:
        self.__dict__.update(field.__dict__)
        self.dependencies, self.inputs, self.method = dependencies, list(inputs), method

    def __call__(self, t: Time, y: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return self.plain(t, y)
        t = t if isinstance(t, Tensor) else self.times((t,))[0]
        k: Tensor = _Call.apply(self, t, y, *self.inputs)
        return k

    def plain(self, t: Time, y: Tensor) -> Tensor:
        """A call as any other."""
        return super().__call__(t, y)

    def pull(self, t: Tensor, y: Tensor, grad: Tensor, timed: bool) -> list[Tensor | None]:
        """The products of ``grad`` with the derivatives with respect to t (None unless ``timed``), y and the inputs."""
        with torch.enable_grad():
            t = t.detach().requires_grad_(timed)
            y = y.detach().requires_grad_()
            k = self.plain(t, y)
        wanted = [*([t] if timed else []), y, *self.inputs]
        self.dependencies.check_none_missed([k], wanted, self.method)
        return [*([] if timed else [None]), *vjp([k], [grad], wanted)]


class _Call(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, field: Recomputed, t: Tensor, y: Tensor, *inputs: Tensor) -> Tensor:
        ctx.field = field
        ctx.save_for_backward(t, y)
        ctx.set_materialize_grads(False)
        return field.plain(t.detach(), y.detach()).detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Any, ...]:
        t, y = ctx.saved_tensors
        if grad is None:
            return (None,) * (3 + len(ctx.field.inputs))
        return None, *ctx.field.pull(t, y, grad, ctx.needs_input_grad[1])
