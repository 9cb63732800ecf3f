"""Every answer once more: SciPy at the tightest tolerance that it takes, next to what is stored.

    python -m benchmarks.problems.references [NAME ...]

Prints the digits that agree and, for problems named on the command line, the computed numbers.
"""

from __future__ import annotations

import functools
import sys

import scipy.integrate
import torch
from torch import Tensor

from benchmarks.measure import in_numpy, jacobian_in_numpy
from benchmarks.problems import NONSTIFF, STIFF, Problem

RTOL = 1e-13


def computed(problem: Problem, stiff: bool) -> Tensor:
    """The answer by Radau or by DOP853 at a tolerance of 1e-13."""
    options = {"jac": functools.partial(jacobian_in_numpy, problem)} if stiff else {}
    found = scipy.integrate.solve_ivp(
        functools.partial(in_numpy, problem.f), problem.span, problem.y0.numpy(),
        method="Radau" if stiff else "DOP853", rtol=RTOL, atol=problem.atol(RTOL).numpy(), **options,
    )  # fmt: skip
    if not found.success:
        raise RuntimeError(f"{problem.name}: {found.message}")
    return torch.from_numpy(found.y[:, -1].copy())


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    for name, problem in {**NONSTIFF, **STIFF}.items():
        if not names or name in names:
            y = computed(problem, stiff=name in STIFF)
            print(f"{name:16} {problem.digits(y):5.1f} digits agree with {problem.source}", flush=True)
            if names:
                print(y.tolist())


if __name__ == "__main__":
    main(sys.argv[1:])
