"""The limit: the bare calls of f and of its vjp, as many as another competitor made, and nothing else.

The forward calls are without a graph, the backward calls have a vjp each. Where the other one kept the graph, and so
calls f in the forward solve alone, these calls have a vjp each.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from benchmarks.competitors import Unfit
from benchmarks.competitors.runner import Calls
from benchmarks.workloads import CASES
from benchmarks.workloads.work import Work


class Limit:
    """Calls of f and of its vjp at the start."""

    def __init__(self, work: Work, calls: Calls) -> None:
        self.work = work
        self.plain, self.with_vjp = _shares(work, calls)
        self.versions = {"torch": torch.__version__}
        with torch.no_grad():
            self.y0 = work.stem(work.y0)
        self.t = work.t.reshape(-1)[0].to(self.y0.dtype)
        self.parameters = tuple(work.f.parameters())

    def once(self) -> None:
        work, t = self.work, self.t
        with torch.no_grad():
            for _ in range(self.plain):
                y = work.f(t, self.y0, *work.args)
        for _ in range(self.with_vjp):
            start = self.y0.detach().requires_grad_()
            y = work.f(t, start, *work.args)
            self._vjp(y, start)
        if self.y0.is_cuda:
            torch.cuda.synchronize()

    def _vjp(self, y: Tensor, start: Tensor) -> None:
        torch.autograd.grad(y, (start, *self.parameters), y.detach(), allow_unused=True)

    def answer(self, to: Path) -> Calls:
        self.once()
        return self.plain, self.with_vjp


def _shares(work: Work, calls: Calls) -> Calls:
    forward, backward = calls
    return (0, forward) if work.gradient == "direct" else (forward, backward)


def prepare(case: str, device: str, calls: Calls) -> Limit:
    if not any(calls):
        raise Unfit("no other competitor has said how often it calls f")
    return Limit(CASES[case]().to(device), calls)
