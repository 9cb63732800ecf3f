"""Step doubling: an error estimate for everybody, and all else as the solver has it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from odekit_solvers.dopri5 import Dopri5
from odekit_solvers.etdrk4 import ETDRK4
from odekit_solvers.euler import Euler
from odekit_solvers.implicit_midpoint import ImplicitMidpoint
from odekit_solvers.leapfrog import Leapfrog
from odekit_solvers.rk4 import RK4
from problems import AUTONOMOUS, DOUBLE, TIMED, Counted, Reference, close, slope
from torch import Tensor
from torch.autograd import gradcheck

from odekit import Doubling, Status, solve
from odekit.core.field import Field
from odekit.core.protocols import ODESolver
from odekit.core.state import TensorLayout
from odekit.core.tolerance import Tolerance
from odekit.errors import InputError

SWING = Reference(
    "separable",
    lambda t, y: torch.cat([y[..., 1:], -4 * y[..., :1]], -1),
    lambda t: torch.tensor([math.sin(2 * t), 2 * math.cos(2 * t)], dtype=DOUBLE),
)
CASES: list[tuple[ODESolver, Reference]] = [
    (Euler(), TIMED),
    (RK4(), TIMED),
    (Dopri5(), AUTONOMOUS),
    (ImplicitMidpoint(), TIMED),
    (Leapfrog(), SWING),
    (ETDRK4([[-1.0, 0.6], [0.2, -0.4]]), TIMED),
]
IDS = [solver.name for solver, _ in CASES]


@pytest.mark.parametrize(("solver", "problem"), CASES, ids=IDS)
@pytest.mark.parametrize("rtol", [1e-3, 1e-5])
def test_everybody_adapts(solver: ODESolver, problem: Reference, rtol: float) -> None:
    times = [0.2, 0.9, 1.3, 2.0]
    loose = rtol * (100 if solver.order == 1 else 1)
    for span in (times, times[::-1]):
        solution = solve(problem.f, problem.exact(span[0]), span, solver=Doubling(solver), rtol=loose, atol=loose)
        close(solution.ys, torch.stack([problem.exact(t) for t in span]), 100 * loose)
        assert 1 < solution.stats.steps < 100


@pytest.mark.parametrize(("solver", "problem"), CASES, ids=IDS)
def test_the_estimate_is_the_error(solver: ODESolver, problem: Reference) -> None:
    """To leading order exact - y2 = (y2 - w) / (2^p - 1), in every component."""
    h, y0 = 0.02 if solver.order < 4 else 0.05, problem.exact(0.5)
    doubled = Doubling(solver).prepared(Tolerance(1e-13, 1e-14))
    f = Field(problem.f, (), TensorLayout(y0.shape), y0, (0.5, 0.5 + h))
    step = doubled.step(f, 0.5, 0.5 + h, y0, doubled.init(f, 0.5, y0))
    assert step.error is not None
    torch.testing.assert_close(problem.exact(0.5 + h) - step.y1, step.error, rtol=0.2, atol=1e-15)


@pytest.mark.parametrize(("solver", "problem"), CASES, ids=IDS)
def test_fixed_steps_are_two_of_half_the_size(solver: ODESolver, problem: Reference) -> None:
    y0, times = problem.exact(0.25), [0.25, 1.25]
    doubled = solve(problem.f, y0, times, solver=Doubling(solver), step_size=0.25)
    halves = solve(problem.f, y0, times, solver=solver, step_size=0.125)
    close(doubled.ys, halves.ys, 1e-14 if not solver.implicit else 1e-9)
    if not solver.implicit:
        assert doubled.stats.nfe == halves.stats.nfe
    assert doubled.stats.steps == 4


@pytest.mark.parametrize(("solver", "problem"), CASES, ids=IDS)
def test_outputs_inside_steps(solver: ODESolver, problem: Reference) -> None:
    counts, errors = (8, 16, 32), []
    for count in counts:
        h = 1.5 / count
        inside = [0.2 + (k + theta) * h for k in range(count) for theta in (0.2, 0.5, 0.8)]
        solution = solve(problem.f, problem.exact(0.2), [0.2, *inside, 1.7], solver=Doubling(solver), step_size=h)
        errors.append(float((solution.ys[1:-1] - torch.stack([problem.exact(t) for t in inside])).abs().max()))
        torch.testing.assert_close(solution.interpolate(inside), solution.ys[1:-1], rtol=1e-12, atol=1e-12)
    assert slope([1 / count for count in counts], errors) > min(solver.order, solver.dense_order + 1) - 0.4
    t = torch.tensor(0.7, dtype=DOUBLE)
    close(solution.derivative(0.7), problem.f(t, problem.exact(0.7)), 0.1 if solver.order == 1 else 0.01)


@pytest.mark.parametrize(("solver", "problem"), CASES, ids=IDS)
def test_both_exact_gradients_agree(solver: ODESolver, problem: Reference) -> None:
    grads = []
    for gradient in ("direct", "checkpointed"):
        y0 = problem.exact(0.2).requires_grad_()
        times = torch.tensor([0.2, 0.7, 1.1, 1.2], dtype=DOUBLE, requires_grad=True)
        options: dict[str, Any] = {"rtol": 1e-2, "atol": 1e-2} if solver.order == 1 else {"rtol": 1e-4, "atol": 1e-4}
        solution = solve(problem.f, y0, times, solver=Doubling(solver), gradient=gradient, **options)
        grads.append(torch.autograd.grad(solution.ys.square().sum() + solution.y1.sum(), [y0, times]))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("gradient", ["direct", "checkpointed"])
@pytest.mark.parametrize("solver", [Euler(), Leapfrog()], ids=["euler", "leapfrog"])
def test_gradcheck(solver: ODESolver, gradient: str) -> None:
    def outputs(y0: Tensor, times: Tensor) -> Tensor:
        return solve(SWING.f, y0, times, solver=Doubling(solver), gradient=gradient, step_size=0.3).ys

    times = torch.tensor([0.0, 0.2, 0.5, 1.0], dtype=DOUBLE, requires_grad=True)
    assert gradcheck(outputs, [SWING.exact(0.1).requires_grad_(), times])


def test_what_steps_cost() -> None:
    """Of a step's 2 s + s calls the whole one and its first half share the first, which a retry has as well."""
    for solver, each, rtol in ((Euler(), 2, 1e-2), (RK4(), 11, 1e-6)):
        f = Counted(TIMED.f)
        stats = solve(f, TIMED.exact(0.2), [0.2, 1.2], solver=Doubling(solver), rtol=rtol, first_step=0.9).stats
        assert f.calls == stats.nfe == 1 + each * stats.steps - (stats.rejected + 1)
        assert stats.rejected > 0


def test_slopes_of_the_dense_output_serve_the_next_step() -> None:
    """Four steps of eight calls; the slopes at the ends of both halves, of which the later one is the next step's."""
    inside = [0.1, 0.3, 0.6, 0.9]
    stats = solve(TIMED.f, TIMED.exact(0.0), [0.0, *inside, 1.0], solver=Doubling(RK4()), step_size=0.25).stats
    assert stats.nfe == 4 * 8 + 4 * 2 - 3


def test_rows_on_their_own_steps() -> None:
    def f(t: Tensor, y: Tensor) -> Tensor:
        return -y * (1 + t) + torch.cos(3 * t)

    y0 = torch.tensor([[1.0, 2.0], [30.0, -4.0], [0.1, 0.0]], dtype=DOUBLE)
    times = torch.tensor([[0.0, 0.4, 1.0], [0.0, 1.0, 2.0], [1.0, 0.8, 0.5]], dtype=DOUBLE)
    for solver in (Doubling(RK4()), Doubling(ImplicitMidpoint())):
        rows = solve(f, y0, times, solver=solver, batch="rows", rtol=1e-4, atol=1e-5)
        for row in range(3):
            alone = solve(f, y0[row], times[row], solver=solver, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(rows.ys[row], alone.ys, rtol=1e-9, atol=1e-9)
            assert rows.stats.accepted[row] == alone.stats.accepted


def test_structure_is_kept() -> None:
    """The estimate is not added to the answer, so that fixed steps of leapfrog stay symplectic."""

    def step(y: Tensor) -> Tensor:
        pendulum = solve(
            lambda t, y: torch.cat([y[1:], -torch.sin(y[:1])]), y, [0.0, 0.4], solver=Doubling(Leapfrog), step_size=0.4
        )
        return pendulum.y1

    jacobian = torch.autograd.functional.jacobian(step, torch.tensor([1.0, 0.5], dtype=DOUBLE))
    assert float(torch.linalg.det(jacobian)) == pytest.approx(1, abs=1e-14)


def test_it_says_of_itself_what_the_solver_does() -> None:
    for solver, _ in CASES:
        doubled = Doubling(solver)
        for fact in ("order", "dense_order", "implicit", "structure", "memoryless", "rowwise"):
            assert getattr(doubled, fact) == getattr(solver, fact)
        assert doubled.error_order == solver.order
        assert doubled.name == f"Doubling({solver.name})"


def test_failures_are_those_of_the_solver() -> None:
    def wall(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t > 0.5, torch.nan, -y)

    for solver in (RK4(), ImplicitMidpoint()):
        solution = solve(wall, torch.ones(2, dtype=DOUBLE), [0.0, 1.0], solver=Doubling(solver), throw=False)
        assert solution.status != Status.SUCCESS
        assert solution.t1 == pytest.approx(0.5, abs=0.02)
        close(solution.y1, torch.full((2,), math.exp(-solution.t1)), 1e-3)


@pytest.mark.parametrize("solver", ["euler", 3, Tensor], ids=str)
def test_what_cannot_be_doubled(solver: Any) -> None:
    with pytest.raises(InputError, match="expected a solver, an ODESolver instance or class"):
        Doubling(solver)
