"""W6: many fixed steps."""

from __future__ import annotations

import torch

from benchmarks.workloads.fields import Linear, Network
from benchmarks.workloads.work import Work, span

STEPS = 1000


def w6l() -> Work:
    torch.manual_seed(0)
    return Work("W6l", "1000 rk4 steps, linear f", Linear(), torch.randn(256, 2), span(), "rk4", steps=STEPS)


def w6m() -> Work:
    torch.manual_seed(0)
    return Work("W6m", "1000 rk4 steps, MLP", Network(), torch.randn(256, 2), span(), "rk4", steps=STEPS)


CASES = {"W6l": w6l, "W6m": w6m}
