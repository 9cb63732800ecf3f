"""SciPy's Radau with the Jacobian in closed form: one small stiff system, in NumPy, without gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from benchmarks.competitors import Unfit
from benchmarks.competitors.in_torch import preparing
from benchmarks.workloads.fields_in_numpy import FIELDS
from benchmarks.workloads.work import Solve, Work


def make(work: Work) -> Solve:
    if work.gradient or work.y0.is_cuda or work.y0.dtype != torch.float64 or not work.args:
        raise Unfit("SciPy takes part in the solves of small systems in float64")
    if len(work.y0) > 1:
        raise Unfit("SciPy solves one system at a time")
    f, jacobian = FIELDS[type(work.f).__name__](float(work.args[0]))

    class Counting:
        """f in NumPy, told to the hook that counts as well."""

        def __call__(self, t: float, y: np.ndarray) -> Any:
            for hook in work.f._forward_pre_hooks.values():
                hook(work.f, ())
            return f(t, y)

    def solve(y0: Tensor) -> Tensor:
        t = work.t.numpy()
        found = solve_ivp(
            Counting(), (t[0], t[-1]), y0[0].numpy(), method="Radau", t_eval=t, jac=jacobian,
            rtol=work.rtol, atol=work.atol,
        )  # fmt: skip
        return torch.from_numpy(found.y.T.copy())[:, None]

    return solve


prepare = preparing(make, "scipy")
