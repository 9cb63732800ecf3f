"""odekit as it comes."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

import odekit
from benchmarks.competitors import Unfit
from benchmarks.competitors.in_torch import MakeSolve, preparing
from benchmarks.workloads.work import Solve, Work

STIFF = "rodas5p"


def options(work: Work) -> dict[str, Any]:
    """Those of :func:`odekit.solve` that the work asks for."""
    chosen: dict[str, Any] = {
        "solver": STIFF if work.solver == "stiff" else work.solver,
        "gradient": work.gradient or "direct",
        "batch": "rows" if work.rows else "shared",
        "args": work.args,
        "dense": False,
    }
    if work.steps is None:
        return {**chosen, "rtol": work.rtol, "atol": work.atol}
    return {**chosen, "step_size": work.step_size}


def solving(**extra: Any) -> MakeSolve:
    """How odekit solves a work, with further options."""

    def make(work: Work) -> Solve:
        for name in extra:
            if name not in inspect.signature(odekit.solve).parameters:
                raise Unfit(f"this odekit has no {name}= yet")
        return Solving(work, {**options(work), **extra})

    return make


class Solving:
    """Solves a work, and keeps what the latest time cost in ``stats``."""

    def __init__(self, work: Work, chosen: dict[str, Any]) -> None:
        self.work, self.chosen = work, chosen
        self.stats: Any = None

    def __call__(self, y0: Tensor) -> Tensor:
        solution = odekit.solve(self.work.f, y0, self.work.t, **self.chosen)
        self.stats = solution.stats
        ys: Tensor = solution.ys
        return ys.transpose(0, 1) if self.work.t.ndim == 2 else ys


prepare = preparing(solving(), "odekit")
