"""torchdiffeq: one step size for all rows; ``odeint``, and ``odeint_adjoint`` for the gradient of the adjoint ODE."""

from __future__ import annotations

from typing import Any

import torchdiffeq
from torch import Tensor

from benchmarks.competitors import Unfit
from benchmarks.competitors.in_torch import MakeSolve, closed, common_times, preparing
from benchmarks.workloads.work import Solve, Work


def solving(gradient: str | None = None) -> MakeSolve:
    """How torchdiffeq solves a work, with another gradient if one is given."""

    def make(work: Work) -> Solve:
        if work.solver == "stiff":
            raise Unfit("torchdiffeq has no adaptive implicit method of its own")
        odeint = torchdiffeq.odeint_adjoint if (gradient or work.gradient) == "adjoint" else torchdiffeq.odeint
        f, (times, pick) = closed(work), common_times(work.t)
        chosen: dict[str, Any] = {"method": work.solver}
        if work.steps is None:
            chosen |= {"rtol": work.rtol, "atol": work.atol}
        else:
            chosen |= {"options": {"step_size": work.step_size}}
        times = times.to(work.y0.dtype)

        def solve(y0: Tensor) -> Tensor:
            return pick(odeint(f, y0, times, **chosen))

        return solve

    return make


prepare = preparing(solving(), "torchdiffeq")
