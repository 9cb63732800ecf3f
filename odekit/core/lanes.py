"""Lanes: the copies of a solve that ``torch.func.vmap`` runs at once, and what the host reads from all of them.

Lanes share their steps; where their times differ, these are stretched and shifted, and callbacks and events are told
the times of the lane with the longest span. Wherever the host reads a number it takes the worst of all lanes, so that
each of them meets the tolerance. This is the one place that knows how PyTorch wraps tensors inside its transforms.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch as wrappers
from torch.autograd import forward_ad
from torch.autograd.forward_ad import unpack_dual

from odekit.errors import GradientError


def transformed() -> bool:
    """Whether this runs inside a function that ``torch.func`` transforms."""
    return not torch.compiler.is_compiling() and wrappers.maybe_current_level() is not None


def mapped() -> bool:
    """Whether this runs inside a function that ``torch.func.vmap`` maps."""
    if not transformed():
        return False
    return any(layer.key() == wrappers.TransformType.Vmap for layer in wrappers.get_interpreter_stack())


def has_lanes(x: Tensor) -> bool:
    """Whether ``x`` differs from lane to lane."""
    while transformed() and wrappers.is_functorch_wrapped_tensor(x):
        if wrappers.is_batchedtensor(x):
            return True
        x = wrappers.get_unwrapped(x)
    return False


def laid_open(x: Tensor) -> Tensor:
    """The numbers of all lanes, ``[L, *x.shape]`` and detached; L is 1 where ``x`` is the same in all of them."""
    if not transformed():
        return x.detach()[None]
    opened, lanes = _opened(x)
    return opened.reshape(-1, *opened.shape[lanes:])


def _opened(x: Tensor) -> tuple[Tensor, int]:
    """The plain tensor behind ``x``, and how many axes in front of it are those of lanes."""
    if not wrappers.is_functorch_wrapped_tensor(x):
        return x.detach(), 0
    inner, lanes = _opened(wrappers.get_unwrapped(x))
    if not wrappers.is_batchedtensor(x):
        return inner, lanes
    return inner.movedim(lanes + wrappers.maybe_get_bdim(x), 0), lanes + 1


def worst(x: Tensor) -> Any:
    """The largest of all lanes, or NaN if one is: a float, or nested lists shaped like ``x``."""
    return laid_open(x).amax(0).tolist() if transformed() else x.tolist()


def everywhere(x: Tensor) -> Any:
    """Whether ``x``, of booleans, is true in all lanes: a bool, or nested lists shaped like ``x``."""
    return laid_open(x).all(0).tolist() if transformed() else x.tolist()


def same(x: Tensor, what: str) -> Tensor:
    """The numbers of ``x``, detached, which must not differ between lanes.

    Raises:
        GradientError: they may; ``what`` says what they are.
    """
    if has_lanes(x):
        raise GradientError(
            f"{what} may differ between the lanes of torch.func.vmap, which share their steps; "
            'give the lanes a batch axis of their own and solve them with batch="rows" in place of vmap'
        )
    return laid_open(x)[0]


def differentiated(x: Tensor) -> bool:
    """Whether derivatives flow through ``x``, in reverse or forward mode, at whatever level of transforms.

    In forward mode, of something that has lanes, it is enough that they could.
    """
    if x.requires_grad:
        return True
    if forward_ad._current_level < 0 and not transformed():  # nobody is in forward mode
        return False
    while not x.requires_grad:
        wrapped = transformed() and wrappers.is_functorch_wrapped_tensor(x)
        if not (wrapped and wrappers.is_batchedtensor(x)):
            if unpack_dual(x).tangent is not None:
                return True
        elif forward_ad._current_level >= 0:
            return True
        if not wrapped:
            return False
        x = wrappers.get_unwrapped(x)
    return True
