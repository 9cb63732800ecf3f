"""Gradients next to those of `direct`."""

from __future__ import annotations

from typing import Any

import optree
import torch
from problems import DOUBLE
from torch import Tensor

from odekit import solve


def seeded(*shape: int, seed: int = 0, dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def driven(t: Tensor, y: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
    return torch.cos(t) * torch.tanh(y @ weight + shift) - 0.1 * y**3


def loss_of(solution: Any) -> Tensor:
    total = torch.zeros((), dtype=DOUBLE)
    for i, leaf in enumerate(optree.tree_leaves((solution.ys, solution.y1))):
        total = total + (seeded(*leaf.shape, seed=i, dtype=leaf.dtype) * leaf).abs().square().sum().to(DOUBLE)
    return total


def assert_as_direct(
    method: Any, f: Any, y0: Any, t: Any, wrt: list[Tensor], digits: float = 1e-11, **options: Any
) -> None:
    """The gradients of a loss over all outputs, by this method, are those of `direct` to so many digits."""
    truth = torch.autograd.grad(loss_of(solve(f, y0, t, **options)), wrt, allow_unused=True)
    found = torch.autograd.grad(loss_of(solve(f, y0, t, gradient=method, **options)), wrt, allow_unused=True)
    for grad, expected in zip(found, truth, strict=True):
        assert (grad is None) is (expected is None)
        if grad is not None and expected is not None:
            assert grad.dtype == expected.dtype
            assert float(expected.abs().max()) > 1e-6
            torch.testing.assert_close(grad, expected, rtol=digits, atol=digits * float(expected.abs().max()))
