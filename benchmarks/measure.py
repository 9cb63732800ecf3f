"""One solve of a benchmark problem, by odekit or by SciPy, and what it came to."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

import odekit
from benchmarks.problems import Problem
from odekit.registry import catalog


@attrs.frozen
class Measured:
    """Correct digits of an answer (-inf if there is none), calls of f, Jacobians, and the seconds of processor time."""

    digits: float
    nfe: int
    jacobians: int
    seconds: float


@attrs.frozen
class Patience:
    """Calls of f and seconds of processor time after which a solve is given up."""

    calls: float = math.inf
    seconds: float = math.inf


ENDLESS = Patience()


class CountedOut(Exception):
    """f was called more often, or for longer, than allowed."""


class Counted:
    """f of a problem, counting its calls, for as long as there is patience from now on."""

    def __init__(self, problem: Problem, patience: Patience) -> None:
        self.f = problem.f
        self.limit = patience.calls
        self.deadline = time.process_time() + patience.seconds
        self.calls = 0

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > self.limit or time.process_time() > self.deadline:
            raise CountedOut
        return self.f(t, y)


def measured(
    problem: Problem, solve: Callable[[Counted], tuple[Tensor, int]], patience: Patience = ENDLESS
) -> Measured:
    """Time ``solve(f)``, which gives y at the end and the number of Jacobians; without gradients."""
    f = Counted(problem, patience)
    start = time.process_time()
    try:
        with torch.no_grad():
            y, jacobians = solve(f)
    except CountedOut:
        y, jacobians = torch.full_like(problem.y0, math.nan), 0
    return Measured(problem.digits(y), f.calls, jacobians, time.process_time() - start)


def ours(problem: Problem, solver: str, rtol: float, patience: Patience = ENDLESS, **options: Any) -> Measured:
    """By the registered solver of this name; ``options`` are those of :func:`odekit.solve`."""

    def solve(f: Counted) -> tuple[Tensor, int]:
        found = odekit.solve(
            f, problem.y0, problem.times, solver=solver, rtol=rtol, atol=problem.atol(rtol), throw=False, **options
        )
        return (found.y1 if found.status.ok else torch.full_like(problem.y0, math.nan)), found.stats.jacobians

    return measured(problem, solve, patience)


def scipys(problem: Problem, method: str, rtol: float, patience: Patience = ENDLESS) -> Measured:
    """By SciPy's method; those that solve equations get the Jacobian by reverse mode, whose calls of f do not count."""
    from scipy.integrate import solve_ivp

    def solve(f: Counted) -> tuple[Tensor, int]:
        options: dict[str, Any] = {}
        if method in ("Radau", "BDF", "LSODA"):
            options["jac"] = functools.partial(jacobian_in_numpy, problem)
        found = solve_ivp(
            functools.partial(in_numpy, f), problem.span, problem.y0.numpy(), method=method,
            rtol=rtol, atol=problem.atol(rtol).numpy(), **options,
        )  # fmt: skip
        return torch.from_numpy(found.y[:, -1].copy() if found.success else np.full(len(found.y), np.nan)), found.njev

    return measured(problem, solve, patience)


def in_numpy(f: Callable[[Tensor, Tensor], Tensor], t: float, y: np.ndarray) -> np.ndarray:
    """f as SciPy calls it."""
    return f(torch.tensor(t, dtype=torch.float64), torch.from_numpy(y)).numpy()


def jacobian_in_numpy(problem: Problem, t: float, y: np.ndarray) -> np.ndarray:
    """∂f/∂y by reverse mode, as SciPy calls it."""
    at = functools.partial(problem.f, torch.tensor(t, dtype=torch.float64))
    return torch.func.jacrev(at)(torch.from_numpy(y)).numpy()


def adaptive_solvers(implicit: bool) -> list[str]:
    """The registered solvers of odekit that control their error and do, or do not, solve equations."""
    classes = {entry.name: entry.object for entry in catalog().entries("solver") if entry.distribution == "odekit"}
    general = {name: one for name, one in classes.items() if one.structure == "general"}
    return [name for name, one in general.items() if one.error_order is not None and one.implicit == implicit]
