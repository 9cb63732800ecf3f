"""First derivatives without a second: differentiating them again is an error instead of a wrong number."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from odekit.core import lanes
from odekit.errors import GradientError


def first_only(x: Tensor, why: str) -> Tensor:
    """``x`` itself, but a derivative that came through here raises GradientError(``why``) when differentiated again."""
    return _FirstOnly.apply(x, why) if lanes.differentiated(x) else x


class _FirstOnly(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, why: str) -> Tensor:
        return x.detach()  # no view: the caller may change x in place later

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, str], output: Tensor) -> None:
        x, ctx.why = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None]:
        final = grad is not None and torch.is_grad_enabled()
        return (_Final.apply(grad, *ctx.saved_tensors, ctx.why) if final else grad), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return tangent.view_as(tangent)


class _Final(torch.autograd.Function):
    """The identity on ``grad``, made to depend on ``x`` so that differentiating it with respect to x gets here."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, x: Tensor, why: str) -> Tensor:
        return grad.view_as(grad)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, str], output: Tensor) -> None:
        ctx.why = inputs[2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None]:
        raise GradientError(ctx.why)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        raise GradientError(ctx.why)
