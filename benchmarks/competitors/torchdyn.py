"""torchdyn: one step size for all rows; plain backpropagation, or its adjoint where pytorch-lightning is installed."""

from __future__ import annotations

import torch
from torchdyn.numerics import odeint

from benchmarks.competitors import Unfit
from benchmarks.competitors.in_torch import closed, common_times, preparing
from benchmarks.workloads.work import Solve, Work


def make(work: Work) -> Solve:
    if work.solver == "stiff":
        raise Unfit("torchdyn has no adaptive implicit methods")
    f, (times, pick) = closed(work), common_times(work.t)
    times = times.to(work.y0.dtype)
    if work.gradient == "adjoint":
        try:
            from torchdyn.core import ODEProblem
        except ModuleNotFoundError as missing:
            raise Unfit(f"torchdyn's adjoint needs {missing.name}, which is not installed") from missing
        problem = ODEProblem(
            f, solver=work.solver, sensitivity="adjoint", atol=work.atol, rtol=work.rtol,
            atol_adjoint=work.atol, rtol_adjoint=work.rtol,
        )  # fmt: skip
        return lambda y0: pick(problem(y0, times)[1])
    if work.steps is not None:
        grid = torch.linspace(float(times[0]), float(times[-1]), work.steps + 1).to(times)
        return lambda y0: pick(odeint(f, y0, grid, work.solver, save_at=times)[1])
    return lambda y0: pick(odeint(f, y0, times, work.solver, atol=work.atol, rtol=work.rtol)[1])


prepare = preparing(make, "torchdyn")
