"""The one autograd function of all gradient methods that have a backward pass of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from odekit.core.autocast import suspended
from odekit.core.first_only import first_only
from odekit.gradients.captured import Dependencies

_THIRD = "only gradient='direct' has third derivatives"


class Tape(ABC):
    """What lives between a forward solve and its backward pass.

    Class attributes:
        method: the name of the gradient method, for messages.
        needs_outputs: whether the backward pass is to be told the outputs; otherwise nothing keeps them alive.

    Attributes:
        y0, ts: what the solve begins from, and the caller's times.
        dependencies: what else to differentiate with respect to.
    """

    method: ClassVar[str]
    needs_outputs: ClassVar[bool] = False
    y0: Tensor
    ts: Tensor
    dependencies: Dependencies

    @abstractmethod
    def solve(self) -> tuple[Tensor, Tensor]:
        """The outputs ``ys`` and the last state ``y1``. Called once, without gradients."""

    @abstractmethod
    def pull(
        self, outputs: Sequence[Tensor], grad_ys: Tensor, grad_y1: Tensor, time_gradient: bool
    ) -> list[Tensor | None]:
        """The gradients with respect to y0, the times (None unless wanted) and each tensor of ``dependencies``.

        Called any number of times, without gradients. ``outputs`` are ``ys`` and ``y1`` if ``needs_outputs``.
        """

    @abstractmethod
    def retrace(self, y0: Tensor, ts: Tensor, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The same outputs again, by operations that autograd sees; ``inputs`` are those of ``dependencies``."""


def record(tape: Tape) -> tuple[Tensor, Tensor]:
    """Solve, so that ``backward()`` through the outputs goes by the tape.

    The gradient can be differentiated once more: its own derivative is that of the whole solve taken again under
    autograd, at the memory of ``direct``, whatever the method of the first.
    """
    outputs: tuple[Tensor, Tensor] = _Solve.apply(tape, tape.y0, tape.ts, *tape.dependencies.tensors)
    return outputs


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tape: Tape, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        ys, y1 = tape.solve()
        y1 = y1.clone()
        ctx.tape = tape
        outputs = (ys, y1) if tape.needs_outputs else ()
        ctx.save_for_backward(*outputs, *inputs)
        return ys, y1

    @staticmethod
    def backward(ctx: Any, grad_ys: Tensor, grad_y1: Tensor) -> tuple[Any, ...]:
        tape: Tape = ctx.tape
        saved = ctx.saved_tensors  # raises if one was changed in place since: f would not see what it saw before
        count = 2 if tape.needs_outputs else 0
        outputs, inputs = saved[:count], saved[count:]
        time_gradient = ctx.needs_input_grad[2]
        if not torch.is_grad_enabled():
            with suspended(tape.y0.device.type):
                return None, *tape.pull(outputs, grad_ys, grad_y1, time_gradient)
        outputs = tuple(x.detach() for x in outputs)
        moving = (first_only(x, _THIRD) for x in (grad_ys, grad_y1, *inputs))
        return None, *_Pull.apply(tape, outputs, time_gradient, *moving)


class _Pull(torch.autograd.Function):
    """The backward pass as a function of the cotangents and of what the solve depends on."""

    @staticmethod
    def forward(
        ctx: Any, tape: Tape, outputs: tuple[Tensor, ...], time_gradient: bool, grad_ys: Tensor, grad_y1: Tensor,
        *inputs: Tensor,
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        ctx.tape, ctx.time_gradient = tape, time_gradient
        ctx.save_for_backward(grad_ys, grad_y1, *inputs)
        ctx.set_materialize_grads(False)
        with suspended(tape.y0.device.type):
            return tuple(tape.pull(outputs, grad_ys, grad_y1, time_gradient))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *arriving: Tensor | None) -> tuple[Any, ...]:
        tape: Tape = ctx.tape
        grad_ys, grad_y1, y0, ts, *_ = ctx.saved_tensors
        with torch.enable_grad(), suspended(tape.y0.device.type):
            seeds = [x.detach().requires_grad_() for x in (grad_ys, grad_y1)]
            y0 = y0.detach().requires_grad_()
            ts = ts.detach().requires_grad_(ctx.time_gradient)
            inputs = tape.dependencies.inputs()
            outputs = tape.retrace(y0, ts, inputs)
            tape.dependencies.check_none_missed(outputs, [y0, ts, *inputs], tape.method)
            wrt = [y0, *([ts] if ctx.time_gradient else []), *inputs]
            pairs = [(out, seed) for out, seed in zip(outputs, seeds, strict=True) if out.requires_grad]
            grads = torch.autograd.grad(
                [out for out, _ in pairs], wrt, [seed for _, seed in pairs], allow_unused=True, create_graph=True
            )
        told = [*arriving[:1], *arriving[1 if ctx.time_gradient else 2 :]]
        moving = [
            (grad, seed)
            for grad, seed in zip(grads, told, strict=True)
            if grad is not None and seed is not None and grad.requires_grad
        ]
        wanted = [*seeds, *wrt]
        second: list[Tensor | None] = [None] * len(wanted)
        if moving:
            second = list(
                torch.autograd.grad(
                    [grad for grad, _ in moving], wanted, [seed for _, seed in moving], allow_unused=True,
                    retain_graph=True,
                )
            )  # fmt: skip
        if not ctx.time_gradient:
            second.insert(3, None)
        return None, None, None, *second
