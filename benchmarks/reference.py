"""The answer of a workload in float64 at tolerances that leave no error to speak of."""

from __future__ import annotations

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import odekit
from benchmarks.workloads.fields_in_numpy import FIELDS
from benchmarks.workloads.work import Work

RTOL = 1e-10
LARGE = 100_000
"""Numbers in a state above which a tolerance of 1e-8 has to do: there f is expensive, and float32 the answer."""


def reference(work: Work) -> Tensor:
    """What :meth:`Work.answer` would give without error: by dopri8, or by SciPy's LSODA where the system is stiff.

    With fixed steps, the exact gradient of the steps tends to that of the ODE, so the one reference serves for both.
    """
    exact = work.to("cpu", torch.float64)
    return _stiff(exact) if work.solver == "stiff" else _smooth(exact)


def _smooth(work: Work) -> Tensor:
    rtol = 1e-8 if work.y0.numel() > LARGE else RTOL

    def solve(y0: Tensor) -> Tensor:
        ys: Tensor = odekit.solve(
            work.f, y0, work.t, solver="dopri8", rtol=rtol, atol=min(rtol, 1e-4 * work.atol), args=work.args,
            batch="rows" if work.rows else "shared", gradient="checkpointed", dense=False,
        ).ys  # fmt: skip
        return ys.transpose(0, 1) if work.t.ndim == 2 else ys

    return work.answer(solve)


def _stiff(work: Work) -> Tensor:
    (numbers,) = work.args
    ends = []
    for number, y0 in zip(numbers, work.y0, strict=True):
        f, jacobian = FIELDS[type(work.f).__name__](float(number))
        t0, t1 = work.t.tolist()
        found = solve_ivp(f, (t0, t1), y0.numpy(), method="LSODA", jac=jacobian, rtol=1e-11, atol=1e-15, t_eval=[t1])
        ends.append(found.y[:, -1])
    return torch.from_numpy(np.concatenate(ends))


def relative_error(answer: Tensor, expected: Tensor) -> float:
    """The largest error, in units of the largest entry."""
    error = (answer.double().cpu() - expected).abs().max() / expected.abs().max()
    return float(error)
