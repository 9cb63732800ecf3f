"""W1: a forward solve of a small network, where overhead shows most."""

from __future__ import annotations

import torch

from benchmarks.workloads.fields import Network
from benchmarks.workloads.work import Work, span


def w1() -> Work:
    torch.manual_seed(0)
    return Work(
        "W1", "small MLP forward, dopri5 1e-6, 256 states of dimension 2", Network(), torch.randn(256, 2), span()
    )


CASES = {"W1": w1}
