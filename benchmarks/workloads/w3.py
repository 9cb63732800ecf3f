"""W3: a training step of a continuous normalizing flow in the plane."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from benchmarks.workloads.fields import Flow
from benchmarks.workloads.w2 import KINDS
from benchmarks.workloads.work import Work, span

ROWS = 512


class NegativeLogLikelihood(nn.Module):
    """Mean of -log p under a standard normal at t1, up to a constant."""

    def forward(self, ys: Tensor) -> Tensor:
        z, lost = ys[-1, :, :2], ys[-1, :, 2]
        return (0.5 * z.square().sum(1) + lost).mean()


def w3(trace: str, letter: str) -> Work:
    gradient, words = KINDS[letter]
    torch.manual_seed(0)
    noise = torch.randint(2, (ROWS, 2)).float() * 2 - 1 if trace == "h" else None
    y0 = torch.cat([torch.randn(ROWS, 2), torch.zeros(ROWS, 1)], 1)
    title = f"CNF training step, {'Hutchinson' if trace == 'h' else 'exact trace'}, {words}"
    return Work(
        f"W3{trace}{letter}", title, Flow(noise), y0, span(), rtol=1e-5, atol=1e-5, gradient=gradient,
        loss=NegativeLogLikelihood(),
    )  # fmt: skip


CASES = {f"W3{trace}{letter}": functools.partial(w3, trace, letter) for trace in "he" for letter in KINDS}
