"""Every registered solver converges at the order that it declares, wherever and in whichever direction it is used."""

from __future__ import annotations

import pytest
import torch
from problems import (
    ADAPTIVE,
    AUTONOMOUS,
    CAUTIOUS,
    DOUBLE,
    MULTISTEP,
    SOLVERS,
    TIMED,
    Reference,
    slope,
    solver_class,
)

from odekit import solve
from odekit.core.field import Field
from odekit.core.protocols import ODESolver, Step
from odekit.core.state import TensorLayout
from odekit.core.tolerance import Tolerance

SPANS = {"forwards": (0.2, 1.7), "backwards": (1.7, 0.2)}
COUNTS = {
    1: (64, 128, 256), 2: (32, 64, 128), 3: (16, 32, 64), 4: (16, 32, 64), 5: (20, 40, 80), 6: (8, 12, 16),
    7: (4, 8, 16), 8: (6, 8, 10),
}  # fmt: skip
"""Numbers of steps by order: enough for the leading term of the error to show, few enough to stay above rounding."""


def counts_of(name: str) -> list[int]:
    """Steps over the span; the past of a multistep method is as long as several, so it wants smaller ones."""
    finer = 4 if name in (*MULTISTEP, "bdf") else 2 if name == "rodas5p" else 1
    return [count * finer for count in COUNTS[solver_class(name).order]]


def error_of(name: str, problem: Reference, span: tuple[float, float], steps: int) -> float:
    """The root mean square of the error at four times that every grid of steps has."""
    t0, t1 = span
    times = [t0 + (t1 - t0) * k / 4 for k in range(5)]
    newton = {"rtol": 1e-13, "atol": 1e-14}  # what iterations leave must not show
    ys = solve(problem.f, problem.exact(t0), times, solver=name, step_size=abs(t1 - t0) / steps, **newton).ys
    return float((ys - torch.stack([problem.exact(t) for t in times])).square().mean().sqrt())


@pytest.mark.parametrize("direction", SPANS)
@pytest.mark.parametrize("problem", [AUTONOMOUS, TIMED], ids=str)
@pytest.mark.parametrize("name", SOLVERS)
def test_observed_order(name: str, problem: Reference, direction: str) -> None:
    order = solver_class(name).order
    counts = counts_of(name)
    errors = [error_of(name, problem, SPANS[direction], n) for n in counts]
    observed = slope([1 / n for n in counts], errors)
    below, above = (0.25, 0.25) if order < 6 else (0.45, 0.75)  # few steps: the leading term is not alone yet
    if name == "kvaerno5":  # and the last step is one of another method
        below = 0.6
    assert order - below < observed < order + above


@pytest.mark.parametrize("problem", [AUTONOMOUS, TIMED], ids=str)
@pytest.mark.parametrize("name", SOLVERS)
def test_outputs_inside_steps_keep_the_order(name: str, problem: Reference) -> None:
    order, dense_order = solver_class(name).order, solver_class(name).dense_order
    t0, t1 = SPANS["forwards"]
    counts = counts_of(name)
    errors = []
    for n in counts:
        h = (t1 - t0) / n
        inside = [t0 + (k + theta) * h for k in range(n // 4, n) for theta in (0.23, 0.5, 0.81)]
        newton = {"rtol": 1e-13, "atol": 1e-14}
        ys = solve(problem.f, problem.exact(t0), [t0, *inside, t1], solver=name, step_size=h, **newton).ys[1:-1]
        errors.append(float((ys - torch.stack([problem.exact(t) for t in inside])).abs().max()))
    assert slope([1 / n for n in counts], errors) > min(order, dense_order + 1) - 0.25


def prepared(name: str) -> ODESolver:
    return solver_class(name)().prepared(Tolerance(1e-13, 1e-14))


def first_step(solver: ODESolver, problem: Reference, t0: float, h: float) -> tuple[Field, Step]:
    """One step of size h from the exact state at t0."""
    y0 = problem.exact(t0)
    f = Field(problem.f, (), TensorLayout(y0.shape), y0, (t0, t0 + 2 * h))  # a node may lie beyond the step
    return f, solver.step(f, t0, t0 + h, y0, solver.init(f, t0, y0))


@pytest.mark.parametrize("problem", [AUTONOMOUS, TIMED], ids=str)
@pytest.mark.parametrize("name", [name for name in SOLVERS if solver_class(name).memoryless])
def test_dense_output_and_its_slope_have_their_order(name: str, problem: Reference) -> None:
    """Within a step the states are off by O(h^(q+1)), q being the order of the dense output, the slopes by O(h^q)."""
    solver = prepared(name)
    q = solver.dense_order
    sizes = [0.1, 0.05, 0.025] if q < 5 else [0.4, 0.3, 0.2]
    values, slopes = [], []
    for h in sizes:
        f, step = first_step(solver, problem, 0.6, h)
        step = solver.densify(f, step)
        off_value, off_slope = 0.0, 0.0
        for theta in (0.12, 0.35, 0.5, 0.77, 0.9):
            exact = problem.exact(0.6 + theta * h)
            slope_there = problem.f(torch.tensor(0.6 + theta * h, dtype=DOUBLE), exact)
            off_value = max(off_value, float((solver.interpolate(step, theta) - exact).abs().max()))
            off_slope = max(off_slope, float((solver.derivative(step, theta) - slope_there).abs().max()))
        values.append(off_value)
        slopes.append(off_slope)
    assert slope(sizes, values) > q + 1 - 0.35
    assert slope(sizes, slopes) > q - 0.35


@pytest.mark.parametrize("problem", [AUTONOMOUS, TIMED], ids=str)
@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_error_estimate_scales_as_the_embedded_order_says(name: str, problem: Reference) -> None:
    solver = prepared(name)
    sizes = [0.2, 0.1, 0.05]
    estimates = []
    for h in sizes:
        _, step = first_step(solver, problem, 0.2, h)
        assert step.error is not None
        estimates.append(float(step.error.abs().max()))
    near = 0.35 if solver.order < 6 else 0.45
    assert slope(sizes, estimates) == pytest.approx(min(solver.order, solver.error_order) + 1, abs=near)


@pytest.mark.parametrize("name", CAUTIOUS)
def test_the_error_estimate_is_the_difference_to_a_worse_answer(name: str) -> None:
    """On y' = y the estimate, which belongs to the worse of two methods, is above the error of the step, or is it."""
    solver = prepared(name)
    y0 = torch.ones(1, dtype=DOUBLE)
    f = Field(lambda t, y: y, (), TensorLayout(y0.shape), y0, (0.0, 0.2))
    step = solver.step(f, 0.0, 0.1, y0, solver.init(f, 0.0, y0))
    error = (step.y1 - torch.tensor(0.1, dtype=DOUBLE).exp()).abs()
    assert step.error is not None
    assert bool(error < step.error.abs() * (1.01 if solver.error_order >= solver.order else 1))
