"""One call of f through the field, one step, one control decision, one trace, one solve of a single step.

python -m pytest benchmarks/micro --benchmark-columns=median,iqr,ops
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import odekit
from benchmarks.workloads.w1 import w1
from odekit.core.control import resolve_control
from odekit.core.problem import pose
from odekit.core.protocols import ODESolver
from odekit.core.solution import Status
from odekit.registry import catalog
from odekit.solving import solver_named

pytest.importorskip("pytest_benchmark")
SOLVERS = ("rk4", "dopri5", "tsit5", "kvaerno3")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def problem() -> Any:
    work = w1()
    with torch.no_grad():
        yield pose(work.f, work.y0, work.t, args=(), rtol=1e-6, atol=1e-6, norm="rms", max_steps=100, adaptive=True)


def stepped(solver: ODESolver, problem: Any) -> Any:
    y0 = problem.y0
    return solver.step(problem.field, 0.0, 0.01, y0, solver.init(problem.field, 0.0, y0))


def test_f_bare(benchmark: Any, problem: Any) -> None:
    f, t, y0 = problem.field.f, torch.zeros(()), problem.y0
    benchmark(f, t, y0)


def test_f_through_the_field(benchmark: Any, problem: Any) -> None:
    t = torch.zeros(())
    benchmark(problem.field, t, problem.y0)


@pytest.mark.parametrize("name", SOLVERS)
def test_step(benchmark: Any, problem: Any, name: str) -> None:
    solver = solver_named(name).prepared(problem.tolerance)
    benchmark(stepped, solver, problem)


def test_control_decision(benchmark: Any, problem: Any) -> None:
    solver = solver_named("dopri5")
    control = resolve_control(None, None, solver, {})
    proposal = control.start(problem.field, 0.0, 1.0, problem.y0, solver, problem.tolerance, None)
    step = stepped(solver, problem)
    verdict = benchmark(control.judge, step, 0.0, 0.01, solver, problem.tolerance, proposal.carry)
    assert verdict.status is Status.SUCCESS


@pytest.mark.parametrize("name", ["exact", "hutchinson"])
def test_trace(benchmark: Any, problem: Any, name: str) -> None:
    trace = catalog().get("trace", name)()
    noise = trace.draw(problem.y0) if name == "hutchinson" else None
    benchmark(trace, problem.field.f, torch.zeros(()), problem.y0, noise)


def test_solve_of_one_step(benchmark: Any) -> None:
    work = w1()
    with torch.no_grad():
        benchmark(odekit.solve, work.f, work.y0, work.t, solver="rk4", step_size=1.0)
