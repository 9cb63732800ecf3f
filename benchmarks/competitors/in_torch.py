"""What the competitors written in PyTorch share: from a way to solve to a runner."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.competitors.runner import Calls
from benchmarks.workloads import CASES
from benchmarks.workloads.work import Solve, Work

MakeSolve = Callable[[Work], Solve]


class TorchRunner:
    """A workload solved by ``solve``."""

    def __init__(self, work: Work, solve: Solve, package: str) -> None:
        self.work, self.solve = work, solve
        self.versions = {"torch": torch.__version__, package: importlib.metadata.version(package)}

    def once(self) -> None:
        self.work.once(self.solve)
        if self.work.y0.is_cuda:
            torch.cuda.synchronize()

    def answer(self, to: Path) -> Calls:
        calls: list[None] = []
        forward: list[int] = []

        def watched(y0: Tensor) -> Tensor:
            ys = self.solve(y0)
            forward.append(len(calls))
            return ys

        hook = self.work.f.register_forward_pre_hook(lambda module, inputs: calls.append(None))
        try:
            found = self.work.answer(watched)
        finally:
            hook.remove()
        np.save(to, found.double().cpu().numpy())
        stats = getattr(self.solve, "stats", None)  # calls within a graph are seen by who made it alone
        if stats is not None:
            return stats.nfe, stats.nfe_backward
        return forward[0], len(calls) - forward[0]


def prepared(make: MakeSolve, package: str, case: str, device: str) -> TorchRunner:
    """The case in the hands of the competitor whose way to solve ``make`` gives."""
    work = CASES[case]().to(device)
    return TorchRunner(work, make(work), package)


class Closed(nn.Module):
    """f with its further arguments filled in, for libraries that pass none."""

    def __init__(self, f: nn.Module, args: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.f, self.args = f, args

    def forward(self, t: Tensor, y: Tensor) -> Any:
        return self.f(t, y, *self.args)


def closed(work: Work) -> nn.Module:
    return Closed(work.f, work.args) if work.args else work.f


def common_times(t: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Times for all rows, and how to find in states at them what ``t`` asked for.

    For a library whose rows share their times, ``[B, T]`` times become the union of all of them.
    """
    if t.ndim == 1:
        return t, lambda ys: ys
    union, place = torch.unique(t, return_inverse=True)
    rows = torch.arange(len(t), device=t.device)
    return union, lambda ys: ys[place.T, rows]


Prepare = Callable[[str, str, Calls], TorchRunner]


def preparing(make: MakeSolve, package: str) -> Prepare:
    """``prepare(case, device, calls)`` of a competitor that does not look at the calls of others."""

    def prepare(case: str, device: str, calls: Calls) -> TorchRunner:
        return prepared(make, package, case, device)

    return prepare
