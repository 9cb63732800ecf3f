"""torchdiffeq's ``odeint_adjoint``, whatever gradient the work asks for."""

from __future__ import annotations

from benchmarks.competitors import Unfit
from benchmarks.competitors.in_torch import MakeSolve, preparing
from benchmarks.competitors.torchdiffeq import solving
from benchmarks.workloads.work import Solve, Work


def _only_training(make: MakeSolve) -> MakeSolve:
    def checked(work: Work) -> Solve:
        if not work.gradient:
            raise Unfit("no gradient is asked for")
        return make(work)

    return checked


prepare = preparing(_only_training(solving("adjoint")), "torchdiffeq")
