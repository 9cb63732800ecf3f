"""Work of any size: states in a batch, dimension of a state, number of steps."""

from __future__ import annotations

import functools

import attrs
import torch

from benchmarks.workloads.fields import Network
from benchmarks.workloads.w6 import w6l
from benchmarks.workloads.work import Work, span

BATCHES = tuple(4**k for k in range(9))
DIMENSIONS = (1, 4, 16, 64, 256, 1024)
STEPS = (10, 100, 1000, 10_000)
TAKEN = 50
"""rk4 steps in the first two series, so that everybody calls f equally often."""


def batch(rows: int) -> Work:
    torch.manual_seed(0)
    y0 = torch.randn(rows, 2)
    return Work(f"batch-{rows}", f"{rows} states of dimension 2", Network(), y0, span(), "rk4", steps=TAKEN)


def dimension(size: int) -> Work:
    torch.manual_seed(0)
    y0 = torch.randn(16, size)
    return Work(f"size-{size}", f"16 states of dimension {size}", Network(size), y0, span(), "rk4", steps=TAKEN)


def steps(count: int) -> Work:
    return attrs.evolve(w6l(), name=f"steps-{count}", title=f"{count} rk4 steps, linear f", steps=count)


SERIES = {"batch": (batch, BATCHES), "size": (dimension, DIMENSIONS), "steps": (steps, STEPS)}
CASES = {f"{name}-{n}": functools.partial(make, n) for name, (make, sizes) in SERIES.items() for n in sizes}
