"""Derivatives up to some order: differentiating them once more is an error instead of a wrong number."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from odekit.core import lanes
from odekit.errors import GradientError


def first_only(x: Tensor, why: str) -> Tensor:
    """``x`` itself, but a derivative that came through here raises GradientError(``why``) when differentiated again."""
    return only(1, x, why)


def only(order: int, x: Tensor, why: str) -> Tensor:
    """The same for a derivative of this order."""
    return _Only.apply(x, order, why) if lanes.differentiated(x) else x


class _Only(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, order: int, why: str) -> Tensor:
        return x.detach()  # no view: the caller may change x in place later

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, str], output: Tensor) -> None:
        x, ctx.order, ctx.why = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None, None]:
        if grad is not None and torch.is_grad_enabled():
            grad = _Derivative.apply(grad, *ctx.saved_tensors, ctx.order - 1, ctx.why)
        return grad, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return tangent.view_as(tangent)


class _Derivative(torch.autograd.Function):
    """The identity on ``grad``, made to depend on ``x`` so that differentiating it with respect to x gets here.

    It can be differentiated ``left`` times.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, x: Tensor, left: int, why: str) -> Tensor:
        return grad.view_as(grad)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int, str], output: Tensor) -> None:
        _, x, ctx.left, ctx.why = inputs
        if ctx.left:
            ctx.save_for_backward(x)
            ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        if ctx.left == 0:
            raise GradientError(ctx.why)
        if torch.is_grad_enabled():
            grad = _Derivative.apply(grad, *ctx.saved_tensors, ctx.left - 1, ctx.why)
        return grad, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        if ctx.left == 0:
            raise GradientError(ctx.why)
        return tangent.view_as(tangent)
