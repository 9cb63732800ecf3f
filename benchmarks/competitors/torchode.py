"""torchode: every row on steps of its own; plain backpropagation, or its joint adjoint."""

from __future__ import annotations

from typing import Any

import torch
import torchode
from torch import Tensor, nn

from benchmarks.competitors import Unfit
from benchmarks.competitors.in_torch import closed, preparing
from benchmarks.workloads.work import Solve, Work


class Flat(nn.Module):
    """f of states ``[B, numbers]``."""

    def __init__(self, f: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.f, self.shape = f, shape

    def forward(self, t: Tensor, y: Tensor) -> Any:
        return self.f(t, y.reshape(self.shape)).flatten(1)


def make(work: Work) -> Solve:
    if work.solver == "stiff":
        raise Unfit("torchode has no implicit methods")
    if work.steps is not None:
        raise Unfit("torchode has no rk4; its fixed steps are of adaptive methods")
    inner = closed(work)
    adjoint = work.gradient == "adjoint"

    def solve(y0: Tensor) -> Tensor:
        term = torchode.ODETerm(inner if y0.ndim == 2 else Flat(inner, tuple(y0.shape)))
        method = torchode.Dopri5(term=term)
        control = torchode.IntegralController(atol=work.atol, rtol=work.rtol, term=term)
        if adjoint:
            solver = torchode.JointBacksolveAdjoint(term, method, control)
        else:
            solver = torchode.AutoDiffAdjoint(method, control)
        times = (work.t if work.t.ndim == 2 else work.t.expand(len(y0), -1)).to(y0.dtype)
        if times.shape[1] == 2:
            problem = torchode.InitialValueProblem(y0.flatten(1), times[:, 0], times[:, 1])
        else:
            problem = torchode.InitialValueProblem(y0.flatten(1), t_eval=times)
        found = solver.solve(problem)
        if not bool((found.status == 0).all()):
            raise RuntimeError(f"torchode ended with statuses {torch.unique(found.status).tolist()}")
        return found.ys.transpose(0, 1).unflatten(2, y0.shape[1:]) if y0.ndim > 1 else found.ys

    return solve


prepare = preparing(make, "torchode")
