"""The peers in the diagrams: SciPy, torchdiffeq and diffrax. The latter two take part where they are installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
from collections.abc import Callable

import attrs
import torch
from torch import Tensor

from benchmarks.measure import Counted, Measured, Patience, measured, ours, scipys
from benchmarks.problems import Problem

PATIENCE = Patience(calls=20_000, seconds=15)
COMPILED_PATIENCE = 500_000
"""Calls of f after which a solve is left out in a compiled program."""

Solve = Callable[[Problem, float], Measured]


def by_odekit(solver: str) -> Solve:
    return lambda problem, rtol: ours(problem, solver, rtol, PATIENCE)


def by_scipy(method: str) -> Solve:
    return lambda problem, rtol: scipys(problem, method, rtol, PATIENCE)


def by_torchdiffeq(method: str) -> Solve:
    """By torchdiffeq's method; a name in capitals is one of SciPy's that torchdiffeq wraps, without a Jacobian."""
    import torchdiffeq

    options = {"method": "scipy_solver", "options": {"solver": method}} if method.isupper() else {"method": method}

    def run(problem: Problem, rtol: float) -> Measured:
        def solve(f: Counted) -> tuple[Tensor, int]:
            atol = float(problem.atol(rtol).min())
            return torchdiffeq.odeint(f, problem.y0, problem.times, rtol=rtol, atol=atol, **options)[-1], 0

        return measured(problem, solve, PATIENCE)

    return run


def by_diffrax(method: str) -> Solve:
    """By diffrax's solver; f is written in JAX and everything is compiled."""
    from benchmarks.in_jax import diffraxs

    def run(problem: Problem, rtol: float) -> Measured:
        found = diffraxs(problem, method, rtol)
        return found if found.nfe <= COMPILED_PATIENCE else attrs.evolve(found, digits=-math.inf)

    return run


LIBRARIES: dict[str, Callable[[str], Solve]] = {
    "odekit": by_odekit,
    "SciPy": by_scipy,
    "torchdiffeq": by_torchdiffeq,
    "diffrax": by_diffrax,
}


def installed(library: str) -> bool:
    """Whether a library can take part."""
    return importlib.util.find_spec(library.lower()) is not None


def versions(library: str) -> dict[str, str]:
    """The versions of a library and of what it computes with."""
    names = {"SciPy": ("scipy",), "diffrax": ("diffrax", "jax")}.get(library, (library, "torch"))
    return {name: torch.__version__ if name == "torch" else importlib.metadata.version(name) for name in names}
