"""The relative error of gradients, against a reference and against `direct` with the same steps."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

import odekit
from benchmarks.gradients.methods import METHODS, Entry, stepping
from benchmarks.gradients.problems import PROBLEMS, GradientProblem
from odekit.core.protocols import GradientMethod, ODESolver
from odekit.errors import AdjointDriftWarning, GradientError, OptionError, ReversalDriftWarning, SolveError
from odekit.gradients import Direct

TOLERANCES = (1e-2, 1e-4, 1e-6, 1e-8)
MOST_STEPS = 3000
"""After so many a solve is left out."""
COMPARED = TOLERANCES[:2]
"""Those at which methods are compared with `direct`."""
SOLVERS = ("dopri5", "tsit5", "bosh3", "dopri8", "alf", "adams_bashforth_moulton", "rodas5p", "bdf")


def gradient(
    problem: GradientProblem, method: GradientMethod, solver: str | ODESolver, rtol: float, atol: float | None = None
) -> Tensor:
    """dL/d(y0, parameters), all in one vector."""
    inputs = [x.detach().clone().requires_grad_() for x in (problem.y0, *problem.parameters)]
    y0, *parameters = inputs
    with warnings.catch_warnings():
        for told in (AdjointDriftWarning, ReversalDriftWarning):
            warnings.simplefilter("ignore", told)
        solution = odekit.solve(
            problem.f, y0, problem.times, args=tuple(parameters), solver=solver, gradient=method, rtol=rtol,
            atol=rtol * 1e-1 if atol is None else atol, max_steps=MOST_STEPS,
        )  # fmt: skip
        grads = torch.autograd.grad(solution.ys.square().sum(), inputs)
    return torch.cat([grad.reshape(-1) for grad in grads])


def reference(problem: GradientProblem) -> Tensor:
    """The gradient to about twelve digits."""
    return gradient(problem, Direct(), "dopri8", 1e-13, 1e-14)


def distance(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).norm() / truth.norm())


def errors(entry: Entry, problem: GradientProblem, truth: Tensor, solver: str = "dopri5") -> list[float]:
    """The error at every tolerance, NaN where there was no answer."""
    found = []
    for rtol in TOLERANCES:
        try:
            found.append(distance(gradient(problem, entry.make(100), entry.solver or solver, rtol), truth))
        except SolveError:
            found.append(math.nan)
    return found


def deviation(entry: Entry, problem: GradientProblem, solver: str) -> float | None:
    """The largest distance to `direct` with the same steps, over all tolerances; None where the two do not go together.

    A method that brings a solver of its own is compared with `direct` through that solver.
    """
    found = [0.0]
    for rtol in COMPARED:
        try:
            method = entry.make(100)
            same = stepping(method, solver)
            found.append(distance(gradient(problem, method, solver, rtol), gradient(problem, Direct(), same, rtol)))
        except (GradientError, OptionError):
            return None
        except SolveError:
            continue
    return max(found)


def against_the_reference() -> dict[str, dict[str, list[float]]]:
    """By problem and method."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, problem in PROBLEMS.items():
        truth = reference(problem)
        found[name] = {label: errors(entry, problem, truth) for label, entry in METHODS.items()}
        print(name, found[name], flush=True)
    return found


def against_direct() -> dict[str, dict[str, float | None]]:
    """By solver and method, the largest over all problems; exact methods only."""
    found: dict[str, dict[str, float | None]] = {}
    for solver in SOLVERS:
        found[solver] = {}
        for label, entry in METHODS.items():
            if not entry.exact or label == "direct" or entry.solver not in (None, solver):
                continue
            each = [deviation(entry, problem, solver) for problem in PROBLEMS.values()]
            found[solver][label] = None if None in each else max(x for x in each if x is not None)
        print(solver, found[solver], flush=True)
    return found
