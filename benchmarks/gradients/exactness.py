"""The relative error of gradients, against a reference and against `direct` with the same steps."""

from __future__ import annotations

import csv
import math
import multiprocessing
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import attrs
import torch
from torch import Tensor

import odekit
from benchmarks.gradients.methods import METHODS, stepping
from benchmarks.gradients.problems import PROBLEMS, GradientProblem
from odekit.core.protocols import GradientMethod, ODESolver
from odekit.errors import AdjointDriftWarning, GradientError, OptionError, ReversalDriftWarning, SolveError
from odekit.gradients import Direct
from odekit.solving import solver_named

TOLERANCES = (1e-2, 1e-4, 1e-6, 1e-8)
MOST_STEPS = 2000
"""A solver that needs more is left out at that tolerance: that of order two would take 1e5 of them at the tightest."""
SOLVERS = (
    "dopri5",
    "tsit5",
    "bosh3",
    "dopri8",
    "alf",
    "adams_bashforth_moulton",
    "rodas5p",
    "bdf",
    "kvaerno3",
    "radau5",
)
SLOWEST = ("kvaerno3", "radau5", "rodas5p")
"""These begin first, so that no process is left with one of them in the end."""
LABELS = tuple(label for label, entry in METHODS.items() if entry.solver is None)
PROCESSES = 2


@attrs.frozen
class Cell:
    """One gradient.

    Attributes:
        error: relative to the reference; NaN where there was no answer.
        deviation: the relative distance to `direct` through the same steps; likewise.
    """

    problem: str
    solver: str
    method: str
    rtol: float
    error: float
    deviation: float


@attrs.frozen
class Job:
    """All methods and tolerances of a solver on a problem, whose gradient is known."""

    problem: str
    solver: str
    truth: Tensor


def gradient(
    problem: GradientProblem, method: GradientMethod, solver: str | ODESolver, rtol: float, atol: float | None = None
) -> Tensor:
    """dL/d(y0, parameters), all in one vector."""
    inputs = [x.detach().clone().requires_grad_() for x in (problem.y0, *problem.parameters)]
    y0, *parameters = inputs
    with warnings.catch_warnings():
        for told in (AdjointDriftWarning, ReversalDriftWarning):
            warnings.simplefilter("ignore", told)
        solution = _solved(problem, y0, parameters, solver, rtol, atol, method)
        grads = torch.autograd.grad(solution.ys.square().sum(), inputs)
    return torch.cat([grad.reshape(-1) for grad in grads])


def reference(problem: GradientProblem) -> Tensor:
    """The gradient to about twelve digits."""
    return gradient(problem, Direct(), "dopri8", 1e-13, 1e-14)


def distance(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).norm() / truth.norm())


def affordable(problem: GradientProblem, solver: ODESolver, rtol: float) -> bool:
    """Whether a solve, without gradients, gets along with MOST_STEPS."""
    try:
        with torch.no_grad():
            _solved(problem, problem.y0, problem.parameters, solver, rtol, None, Direct())
    except SolveError:
        return False
    return True


def cells(job: Job) -> list[Cell]:
    """Of one job. Methods that do not go together with the solver have none."""
    begun, problem, found = time.perf_counter(), PROBLEMS[job.problem], []
    apart: set[str] = set()
    for rtol in TOLERANCES:
        known: dict[bool, Tensor | None] = {}  # by `direct`, through steps of the solver itself and through other ones
        for label in (label for label in LABELS if label not in apart):
            method = METHODS[label].make(100)
            try:
                same = stepping(method, job.solver)
                other = type(same) is not type(solver_named(job.solver))
                if other not in known:
                    enough = affordable(problem, same, rtol)
                    known[other] = gradient(problem, Direct(), same, rtol) if enough else None
                direct, error, deviation = known[other], math.nan, math.nan
                if direct is not None:
                    each = direct if label == "direct" else gradient(problem, method, job.solver, rtol)
                    error, deviation = distance(each, job.truth), distance(each, direct)
            except (GradientError, OptionError):
                apart.add(label)
                continue
            except SolveError:
                pass
            found.append(Cell(job.problem, job.solver, label, rtol, error, deviation))
    print(f"{job.solver} on {job.problem}: {time.perf_counter() - begun:.0f} s", flush=True)
    return found


def measured() -> list[Cell]:
    """All of them, by processes of one thread."""
    truths = {name: reference(problem) for name, problem in PROBLEMS.items()}
    order = sorted(SOLVERS, key=lambda solver: solver not in SLOWEST)
    jobs = [Job(problem, solver, truth) for solver in order for problem, truth in truths.items()]
    with multiprocessing.get_context("spawn").Pool(PROCESSES, torch.set_num_threads, (1,)) as pool:
        return [cell for found in pool.imap_unordered(cells, jobs, chunksize=1) for cell in found]


def write(found: Sequence[Cell], path: Path) -> None:
    """All numbers, for whoever wants another table."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in attrs.fields(Cell)])
        for cell in sorted(found, key=lambda cell: (cell.problem, cell.solver, cell.method, -cell.rtol)):
            *names, error, deviation = attrs.astuple(cell)
            writer.writerow([*names, f"{error:.1e}", f"{deviation:.1e}"])


def _solved(
    problem: GradientProblem, y0: Tensor, parameters: Sequence[Tensor], solver: str | ODESolver, rtol: float,
    atol: float | None, method: GradientMethod,
) -> odekit.Solution:  # fmt: skip
    return odekit.solve(
        problem.f, y0, problem.times, args=tuple(parameters), solver=solver, gradient=method, rtol=rtol,
        atol=rtol * 1e-1 if atol is None else atol, max_steps=MOST_STEPS,
    )  # fmt: skip
