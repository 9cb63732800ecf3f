"""Explicit methods made reversible: the order, the estimate and the dense output of the method, and a way back."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from odekit_solvers.bosh3 import Bosh3
from odekit_solvers.dopri5 import Dopri5
from odekit_solvers.euler import Euler
from odekit_solvers.heun import Heun
from odekit_solvers.rk4 import RK4
from odekit_solvers.tsit5 import Tsit5
from odekit_solvers.vern7 import Vern7
from problems import AUTONOMOUS, DOUBLE, TIMED, Counted, Reference, close, slope
from torch import Tensor
from torch.autograd import gradcheck

from odekit import Reversible, solve
from odekit.core.field import Field
from odekit.core.runge_kutta import ExplicitRungeKutta
from odekit.core.state import TensorLayout
from odekit.errors import InputError, SolveError

BASES: list[ExplicitRungeKutta] = [Euler(), Heun(), Bosh3(), RK4(), Dopri5(), Vern7()]
ADAPTIVE = [base for base in BASES if base.error_order is not None]
SLOW = (Heun, Vern7)
COUNTS = {1: (32, 64, 128), 2: (16, 32, 64), 3: (16, 32, 64), 4: (16, 32, 64), 5: (16, 32, 64), 7: (6, 9, 16)}
PROBLEMS = pytest.mark.parametrize("problem", [AUTONOMOUS, TIMED], ids=str)
UNEVEN = [0.2, 0.3, 0.35, 0.6, 0.62, 0.9, 1.0, 1.3]


def each(bases: list[ExplicitRungeKutta]) -> pytest.MarkDecorator:
    """Some of them in the slow run only."""
    marks = [[pytest.mark.slow] if isinstance(base, SLOW) else [] for base in bases]
    params = [pytest.param(base, marks=mark, id=base.name) for base, mark in zip(bases, marks, strict=True)]
    return pytest.mark.parametrize("base", params)


def field(problem: Reference, y0: Tensor, t0: float, t1: float) -> Field:
    return Field(problem.f, (), TensorLayout(y0.shape), y0, (t0, t1))


@pytest.mark.parametrize("span", [(0.2, 1.7), (1.7, 0.2)], ids=["forwards", "backwards"])
@PROBLEMS
@each(BASES)
def test_the_order_of_the_method(base: ExplicitRungeKutta, problem: Reference, span: tuple[float, float]) -> None:
    t0, t1 = span
    times = [t0 + (t1 - t0) * k / 4 for k in range(5)]
    exact = torch.stack([problem.exact(t) for t in times])
    errors = []
    for n in COUNTS[base.order]:
        ys = solve(problem.f, exact[0], times, solver=Reversible(base), step_size=abs(t1 - t0) / n).ys
        errors.append(float((ys - exact).square().mean().sqrt()))
    below, above = (0.25, 0.3) if base.order < 6 else (0.6, 0.8)
    assert base.order - below < slope([1 / n for n in COUNTS[base.order]], errors) < base.order + above


@PROBLEMS
@each(BASES)
def test_outputs_inside_steps_keep_the_order(base: ExplicitRungeKutta, problem: Reference) -> None:
    errors, slopes, counts = [], [], COUNTS[base.order]
    for n in counts:
        h = 1.5 / n
        inside = [0.2 + (k + theta) * h for k in range(n // 4, n, n // 6) for theta in (0.23, 0.5, 0.81)]
        solution = solve(problem.f, problem.exact(0.2), [0.2, *inside, 1.7], solver=Reversible(base), step_size=h)
        exact = torch.stack([problem.exact(t) for t in inside])
        errors.append(float((solution.ys[1:-1] - exact).abs().max()))
        slope_there = torch.stack([problem.f(torch.tensor(t, dtype=DOUBLE), problem.exact(t)) for t in inside])
        slopes.append(float((solution.derivative(inside) - slope_there).abs().max()))
        torch.testing.assert_close(solution.interpolate(inside), solution.ys[1:-1], rtol=1e-12, atol=1e-12)
    order = min(base.order, base.dense_order + 1)
    assert slope([1 / n for n in counts], errors) > order - 0.4
    assert slope([1 / n for n in counts], slopes) > min(base.order, base.dense_order) - 0.4


def test_the_dense_output_begins_and_ends_with_the_step_and_has_its_own_slope() -> None:
    """Also where the companion is far from the state."""
    y0, solver = TIMED.exact(0.5), Reversible(Dopri5(), coupling=0.7)
    f = field(TIMED, y0, 0.5, 0.8)
    step = solver.densify(f, solver.step(f, 0.5, 0.8, y0, y0 + 0.3))
    torch.testing.assert_close(solver.interpolate(step, 0.0), y0, rtol=1e-15, atol=1e-15)
    torch.testing.assert_close(solver.interpolate(step, 1.0), step.y1, rtol=1e-15, atol=1e-15)
    for theta in (0.2, 0.9):
        around = solver.interpolate(step, theta + 1e-5) - solver.interpolate(step, theta - 1e-5)
        torch.testing.assert_close(solver.derivative(step, theta), around / 2e-5 / 0.3, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("rtol", [1e-3, 1e-6])
@pytest.mark.parametrize("span", [[0.2, 0.9, 1.3, 2.0], [2.0, 1.3, 0.9, 0.2]], ids=["forwards", "backwards"])
@each(ADAPTIVE)
def test_adaptive_steps(base: ExplicitRungeKutta, span: list[float], rtol: float) -> None:
    for problem in (AUTONOMOUS, TIMED):
        exact = torch.stack([problem.exact(t) for t in span])
        solution = solve(problem.f, exact[0], span, solver=Reversible(base), rtol=rtol, atol=rtol)
        close(solution.ys, exact, 100 * rtol)
        plain = solve(problem.f, exact[0], span, solver=base, rtol=rtol, atol=rtol).stats.steps
        assert solution.stats.steps < 2 * plain + 10


@each(ADAPTIVE)
def test_the_estimate_is_that_of_the_method_and_the_distance_of_the_companion_to_its_step(
    base: ExplicitRungeKutta,
) -> None:
    y0 = TIMED.exact(0.5)
    z0 = y0 + torch.tensor([0.01, -0.02], dtype=DOUBLE)
    f = field(TIMED, y0, 0.5, 0.7)
    step, own = Reversible(base).step(f, 0.5, 0.7, y0, z0), base.step(f, 0.5, 0.7, z0, None)
    assert step.error is not None
    assert own.error is not None
    torch.testing.assert_close(step.error, own.error + step.carry - own.y1, rtol=1e-12, atol=1e-15)


def test_a_decay_is_held_to_the_tolerance_although_the_distance_to_the_companion_grows() -> None:
    """Steps become as short as stability wants: with the method's estimate alone the answer is lost altogether."""

    def f(t: Tensor, y: Tensor) -> Tensor:
        return -3 * (y - torch.cos(t))

    y0 = torch.zeros(1, dtype=DOUBLE)
    exact = (9 * math.cos(10) + 3 * math.sin(10)) / 10 - 0.9 * math.exp(-30)
    solution = solve(f, y0, [0.0, 10.0], solver=Reversible(Dopri5, coupling=0.9), rtol=1e-6, atol=1e-6)
    close(solution.y1, [exact], 1e-4)
    assert 200 < solution.stats.steps < 1000
    with pytest.raises(SolveError):
        solve(f, y0, [0.0, 10.0], solver=Reversible(Dopri5, coupling=1), rtol=1e-6, atol=1e-6, max_steps=500)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("times", [UNEVEN, UNEVEN[::-1]], ids=["forwards", "backwards"])
@pytest.mark.parametrize("coupling", [0.9, 1.0])
@each(BASES)
def test_the_inverse_is_exact_to_rounding(
    base: ExplicitRungeKutta, coupling: float, times: list[float], dtype: torch.dtype
) -> None:
    solver = Reversible(base, coupling)
    y0 = TIMED.exact(times[0]).to(dtype)
    if dtype.is_complex:
        f = Field(lambda t, y: 1j * torch.cos(t) * y, (), TensorLayout(y0.shape), y0, (times[0], times[-1]))
    else:
        f = field(TIMED, y0, times[0], times[-1])
    states = [(y0, solver.init(f, times[0], y0))]
    for t0, t1 in itertools.pairwise(times):
        y, z = states[-1]
        before = y.clone(), z.clone()
        step = solver.step(f, t0, t1, y, z)
        assert torch.equal(y, before[0])
        assert torch.equal(z, before[1])
        assert step.y1.dtype == dtype
        states.append((step.y1, step.carry))
    y, z = states[-1]
    allowed = 200 * torch.finfo(dtype).eps
    for i in range(len(times) - 2, -1, -1):
        y, z = solver.reverse(f, times[i], times[i + 1], y, z)
        torch.testing.assert_close(y, states[i][0], rtol=allowed, atol=allowed)
        torch.testing.assert_close(z, states[i][1], rtol=allowed, atol=allowed)


def test_two_steps_by_hand() -> None:
    """y' = t y by Euler's method: Ψ_h(t, y) = h t y."""
    h, coupling = 0.5, 0.75
    y = z = 1.0
    expected = [y]
    for t in (1.0, 1.5):
        y = coupling * y + (1 - coupling) * z + h * t * z
        z = z + h * (t + h) * y
        expected.append(y)
    found = solve(
        lambda t, y: t * y, torch.ones(1, dtype=DOUBLE), [1.0, 1.5, 2.0], solver=Reversible(Euler, coupling),
        step_size=h,
    )  # fmt: skip
    assert found.ys[:, 0].tolist() == pytest.approx(expected, rel=1e-15)


def test_what_steps_cost() -> None:
    """Fixed steps of dopri5 need six stages, its error estimate one more, and the companion six."""
    for base, fixed, adaptive in ((RK4(), 8, None), (Dopri5(), 12, 13)):
        f = Counted(TIMED.f)
        stats = solve(f, TIMED.exact(0.2), [0.2, 1.2], solver=Reversible(base), step_size=0.25).stats
        assert f.calls == stats.nfe == 4 * fixed
        if adaptive is not None:
            stats = solve(
                TIMED.f, TIMED.exact(0.2), [0.2, 1.2], solver=Reversible(base), rtol=1e-6, first_step=0.1
            ).stats
            assert stats.nfe == adaptive * stats.steps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_f_is_asked_within_the_span_and_the_steps(dtype: torch.dtype) -> None:
    f = Counted(TIMED.f)
    solver = Reversible(Dopri5())
    for times in ([0.2, 0.33, 1.1], [1.1, 0.2]):
        ys = solve(f, TIMED.exact(times[0]).to(dtype), times, solver=solver, rtol=1e-4, atol=1e-4).ys
        assert ys.dtype == dtype
        assert min(f.times) >= torch.tensor(0.2, dtype=dtype) >= 0.2 - 1e-7
        assert max(f.times) <= torch.tensor(1.1, dtype=dtype)


def test_rows_on_their_own_steps() -> None:
    def f(t: Tensor, y: Tensor) -> Tensor:
        return -y * (1 + t) + torch.cos(3 * t)

    y0 = torch.tensor([[1.0, 2.0], [30.0, -4.0], [0.1, 0.0]], dtype=DOUBLE)
    times = torch.tensor([[0.0, 0.4, 1.0], [0.0, 1.0, 2.0], [1.0, 0.8, 0.5]], dtype=DOUBLE)
    rows = solve(f, y0, times, solver=Reversible(Tsit5), batch="rows", rtol=1e-4, atol=1e-5)
    for row in range(3):
        alone = solve(f, y0[row], times[row], solver=Reversible(Tsit5), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(rows.ys[row], alone.ys, rtol=1e-9, atol=1e-9)
        assert rows.stats.accepted[row] == alone.stats.accepted


@pytest.mark.parametrize("gradient", ["direct", "checkpointed", "reversible"])
def test_gradcheck(gradient: str) -> None:
    def outputs(y0: Tensor, times: Tensor) -> Tensor:
        return solve(TIMED.f, y0, times, solver=Reversible(Bosh3, 0.9), gradient=gradient, step_size=0.3).ys

    times = torch.tensor([0.0, 0.2, 0.55, 1.0], dtype=DOUBLE, requires_grad=True)
    assert gradcheck(outputs, [TIMED.exact(0.0).requires_grad_(), times])


def test_it_says_of_itself_what_the_method_does() -> None:
    for base in BASES:
        solver = Reversible(base)
        for fact in ("order", "error_order", "dense_order", "implicit", "structure", "rowwise"):
            assert getattr(solver, fact) == getattr(base, fact)
        assert solver.name == f"Reversible({base.name})"
        assert not solver.memoryless
    assert Reversible(RK4).coupling == 0.999


@pytest.mark.parametrize("given", ["rk4", 3, Tensor], ids=str)
def test_what_cannot_be_made_reversible(given: Any) -> None:
    with pytest.raises(InputError, match="expected an explicit Runge-Kutta method, an ExplicitRungeKutta instance or"):
        Reversible(given)


@pytest.mark.parametrize("coupling", [0, -0.1, 1.01, math.nan, True, "0.9", None], ids=str)
def test_couplings_that_are_none(coupling: Any) -> None:
    with pytest.raises(InputError, match=r"expected a number in \(0, 1\]"):
        Reversible(RK4, coupling)
