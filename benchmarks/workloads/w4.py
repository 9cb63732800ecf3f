"""W4: the convolutional block of an ODENet on MNIST, where f is nearly all there is."""

from __future__ import annotations

import functools

import torch

from benchmarks.workloads.fields import Convolutions
from benchmarks.workloads.w2 import KINDS
from benchmarks.workloads.work import Work, span


def w4(letter: str) -> Work:
    gradient, words = KINDS[letter]
    torch.manual_seed(0)
    title = f"convolutional ODENet block, training step, {words}"
    y0 = torch.randn(128, 64, 6, 6)
    return Work(f"W4{letter}", title, Convolutions(), y0, span(), rtol=1e-3, atol=1e-3, gradient=gradient)


CASES = {f"W4{letter}": functools.partial(w4, letter) for letter in KINDS}
