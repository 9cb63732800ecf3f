"""W7: stiff problems, one system and a batch of 64."""

from __future__ import annotations

import functools

import torch

from benchmarks.workloads.fields import Robertson, VanDerPol
from benchmarks.workloads.work import Work, span

TOLERANCE = {"rtol": 1e-6, "atol": 1e-10}


def robertson(rows: int) -> Work:
    factor = torch.logspace(-0.3, 0.3, rows, dtype=torch.float64)[:, None] if rows > 1 else torch.ones(1, 1).double()
    y0 = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).repeat(rows, 1)
    title = f"Robertson to 1e5, {rows} rows"
    return Work(f"W7r-{rows}", title, Robertson(), y0, span(1e5), "stiff", rows=True, args=(factor,), **TOLERANCE)


def van_der_pol(rows: int) -> Work:
    mu = torch.linspace(900, 1100, rows, dtype=torch.float64)[:, None] if rows > 1 else torch.full((1, 1), 1e3).double()
    y0 = torch.tensor([2.0, 0.0], dtype=torch.float64).repeat(rows, 1)
    title = f"Van der Pol around μ = 1000, {rows} rows"
    return Work(f"W7v-{rows}", title, VanDerPol(), y0, span(2000.0), "stiff", rows=True, args=(mu,), **TOLERANCE)


CASES = {
    f"W7{letter}-{rows}": functools.partial(make, rows)
    for letter, make in (("r", robertson), ("v", van_der_pol))
    for rows in (1, 64)
}
