"""W5: a batch from mild to stiff, every row on its own steps where a library can do that."""

from __future__ import annotations

import functools

import torch

from benchmarks.workloads.fields import VanDerPol
from benchmarks.workloads.work import Work, span

SIZES = (64, 256, 1024)


def w5(rows: int) -> Work:
    mu = torch.logspace(-1, 1.7, rows, dtype=torch.float64)[:, None]
    y0 = torch.tensor([2.0, 0.0], dtype=torch.float64).repeat(rows, 1)
    title = f"Van der Pol, μ from 0.1 to 50, {rows} rows on their own steps"
    return Work(f"W5-{rows}", title, VanDerPol(), y0, span(10.0), rows=True, args=(mu,))


CASES = {f"W5-{rows}": functools.partial(w5, rows) for rows in SIZES}
