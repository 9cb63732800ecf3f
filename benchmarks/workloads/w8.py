"""W8: the memory of a training step against the number of steps, at a large state."""

from __future__ import annotations

import functools

import torch

from benchmarks.workloads.fields import Layer
from benchmarks.workloads.w2 import KINDS
from benchmarks.workloads.work import Work, span


def w8(letter: str, steps: int) -> Work:
    gradient, words = KINDS[letter]
    torch.manual_seed(0)
    title = f"memory of {steps} rk4 steps, state 4096×256, {words}"
    y0 = torch.randn(4096, 256)
    return Work(f"W8{letter}-{steps}", title, Layer(256), y0, span(), "rk4", steps=steps, gradient=gradient)


CASES = {f"W8{letter}-{steps}": functools.partial(w8, letter, steps) for letter in KINDS for steps in (10, 40, 160)}
