"""Every registered solver converges at the order that it declares, wherever and in whichever direction it is used."""

from __future__ import annotations

import pytest
import torch
from problems import ADAPTIVE, AUTONOMOUS, DOUBLE, SOLVERS, TIMED, Reference, slope, solver_class

from odekit import solve
from odekit.core.field import Field
from odekit.core.state import TensorLayout
from odekit.core.tolerance import Tolerance

SPANS = {"forwards": (0.2, 1.7), "backwards": (1.7, 0.2)}
COUNTS = {1: (64, 128, 256), 2: (32, 64, 128), 3: (16, 32, 64), 4: (16, 32, 64), 5: (20, 40, 80)}


def error_of(name: str, problem: Reference, span: tuple[float, float], steps: int) -> float:
    """The root mean square of the error at four times that every grid of steps has."""
    t0, t1 = span
    times = [t0 + (t1 - t0) * k / 4 for k in range(5)]
    ys = solve(problem.f, problem.exact(t0), times, solver=name, step_size=abs(t1 - t0) / steps).ys
    return float((ys - torch.stack([problem.exact(t) for t in times])).square().mean().sqrt())


@pytest.mark.parametrize("direction", SPANS)
@pytest.mark.parametrize("problem", [AUTONOMOUS, TIMED], ids=str)
@pytest.mark.parametrize("name", SOLVERS)
def test_observed_order(name: str, problem: Reference, direction: str) -> None:
    order = solver_class(name).order
    counts = COUNTS[order]
    errors = [error_of(name, problem, SPANS[direction], n) for n in counts]
    observed = slope([1 / n for n in counts], errors)
    assert observed == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("problem", [AUTONOMOUS, TIMED], ids=str)
@pytest.mark.parametrize("name", SOLVERS)
def test_outputs_inside_steps_keep_the_order(name: str, problem: Reference) -> None:
    order = solver_class(name).order
    t0, t1 = SPANS["forwards"]
    counts = COUNTS[order]
    errors = []
    for n in counts:
        h = (t1 - t0) / n
        inside = [t0 + (k + theta) * h for k in range(n // 4, n) for theta in (0.23, 0.5, 0.81)]
        ys = solve(problem.f, problem.exact(t0), [t0, *inside, t1], solver=name, step_size=h).ys[1:-1]
        errors.append(float((ys - torch.stack([problem.exact(t) for t in inside])).abs().max()))
    assert slope([1 / n for n in counts], errors) > min(order, 4) - 0.25


@pytest.mark.parametrize("problem", [AUTONOMOUS, TIMED], ids=str)
@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_error_estimate_scales_as_the_embedded_order_says(name: str, problem: Reference) -> None:
    solver = solver_class(name)().prepared(Tolerance(1e-13, 1e-14))
    assert solver.error_order == solver.order - 1
    t0 = 0.2
    y0 = problem.exact(t0)
    sizes = [0.2, 0.1, 0.05]
    estimates = []
    for h in sizes:
        f = Field(problem.f, (), TensorLayout(y0.shape), y0, (t0, t0 + h))
        step = solver.step(f, t0, t0 + h, y0, solver.init(f, t0, y0))
        assert step.error is not None
        estimates.append(float(step.error.abs().max()))
    assert slope(sizes, estimates) == pytest.approx(solver.error_order + 1, abs=0.35)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_error_estimate_is_the_difference_to_a_worse_answer(name: str) -> None:
    """On y' = y the estimate, which belongs to the embedded method, is above the error of the step itself."""
    solver = solver_class(name)().prepared(Tolerance(1e-13, 1e-14))
    y0 = torch.ones(1, dtype=DOUBLE)
    f = Field(lambda t, y: y, (), TensorLayout(y0.shape), y0, (0.0, 0.1))
    step = solver.step(f, 0.0, 0.1, y0, solver.init(f, 0.0, y0))
    error = (step.y1 - torch.tensor(0.1, dtype=DOUBLE).exp()).abs()
    assert step.error is not None
    assert bool(error < step.error.abs())
