"""Exponential time differencing: its order, stiff linear parts, gradients, and how it is told the linear part."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import odekit_solvers.etdrk4
import pytest
import torch
from odekit_solvers.etdrk4 import ETDRK4
from problems import AUTONOMOUS, DOUBLE, TIMED, Counted, Reference, close, slope
from scipy.integrate import solve_ivp
from torch import Tensor
from torch.autograd import gradcheck

from odekit import solve
from odekit.core.field import Field
from odekit.core.state import TensorLayout
from odekit.errors import GradientError, InputError, OptionError, SolveError

DIAGONAL = [-1.5, 0.7]
MATRIX = [[-1.0, 0.6], [0.2, -0.4]]
SPANS = [(0.2, 1.7), (1.7, 0.2)]


@pytest.mark.parametrize("span", SPANS, ids=["forwards", "backwards"])
@pytest.mark.parametrize("linear", [DIAGONAL, MATRIX], ids=["diagonal", "matrix"])
@pytest.mark.parametrize("problem", [AUTONOMOUS, TIMED], ids=str)
def test_observed_order(problem: Reference, linear: Any, span: tuple[float, float]) -> None:
    """Whatever is called the linear part, the order is four."""
    counts, errors = (16, 32, 64), []
    for count in counts:
        y1 = solve(problem.f, problem.exact(span[0]), span, solver=ETDRK4(linear), step_size=1.5 / count).y1
        errors.append(float((y1 - problem.exact(span[1])).abs().max()))
    assert slope([1 / count for count in counts], errors) == pytest.approx(4, abs=0.35)


@pytest.mark.parametrize("problem", [AUTONOMOUS, TIMED], ids=str)
def test_the_error_estimate_is_of_order_four(problem: Reference) -> None:
    solver, errors, sizes = ETDRK4(MATRIX), [], [0.2, 0.1, 0.05]
    for h in sizes:
        y0 = problem.exact(0.2)
        f = Field(problem.f, (), TensorLayout(y0.shape), y0, (0.2, 0.2 + h))
        step = solver.step(f, 0.2, 0.2 + h, y0, solver.init(f, 0.2, y0))
        assert step.error is not None
        errors.append(float(step.error.abs().max()))
    assert slope(sizes, errors) == pytest.approx(4, abs=0.35)


@pytest.mark.parametrize("linear", [DIAGONAL, MATRIX], ids=["diagonal", "matrix"])
def test_a_linear_system_is_followed_exactly(linear: Any) -> None:
    matrix = torch.tensor(linear, dtype=DOUBLE)
    matrix = torch.diag(matrix) if matrix.ndim == 1 else matrix
    y0 = torch.tensor([[1.0, -2.0], [0.3, 0.5]], dtype=DOUBLE)
    solution = solve(lambda t, y: y @ matrix.T, y0, [0.0, 3.0], solver=ETDRK4(linear), step_size=3.0)
    close(solution.y1, y0 @ torch.linalg.matrix_exp(3 * matrix).T, 1e-13)


@pytest.mark.parametrize(("rtol", "allowed"), [(1e-4, 1e-3), (1e-9, 1e-8)])
def test_adaptive_steps_meet_their_tolerance(rtol: float, allowed: float) -> None:
    solution = solve(TIMED.f, TIMED.exact(0.2), [0.2, 1.0, 3.0], solver=ETDRK4(MATRIX), rtol=rtol, atol=rtol)
    close(solution.ys, torch.stack([TIMED.exact(t) for t in (0.2, 1.0, 3.0)]), allowed)


def heat(n: int) -> tuple[Tensor, Callable[[Tensor, Tensor], Tensor], Callable[[float], Tensor]]:
    """Second differences on n points, and u' = L u - u³ + source, solved by u = sin(πx) cos t."""
    x = torch.linspace(0, 1, n + 2, dtype=DOUBLE)[1:-1]
    ones = torch.ones(n - 1, dtype=DOUBLE)
    laplacian = (n + 1) ** 2 * (torch.diag(ones, 1) + torch.diag(ones, -1) - 2 * torch.eye(n, dtype=DOUBLE))
    shape = torch.sin(math.pi * x)

    def f(t: Tensor, u: Tensor) -> Tensor:
        exact = shape * torch.cos(t)
        return (u - exact) @ laplacian - u**3 + exact**3 - shape * torch.sin(t)

    return laplacian, f, lambda t: shape * math.cos(t)


def test_steps_far_beyond_the_limit_of_explicit_methods() -> None:
    """dt L is up to 430, where those of rk4 have to stay below 2.8; the answer gets no worse than without stiffness."""
    laplacian, f, exact = heat(32)
    y1 = solve(f, exact(0.0), [0.0, 2.0], solver=ETDRK4(laplacian), step_size=0.1).y1
    close(y1, exact(2.0), 3e-5)
    with pytest.raises(SolveError):
        solve(f, exact(0.0), [0.0, 2.0], solver="rk4", step_size=0.1)
    adaptive = solve(f, exact(0.0), [0.0, 2.0], solver=ETDRK4(laplacian), rtol=1e-6, atol=1e-6)
    close(adaptive.y1, exact(2.0), 1e-5)
    assert adaptive.stats.steps < 60


def test_a_soliton_in_fourier_space() -> None:
    """i u' + u_xx + 2|u|² u = 0 is solved by sech(x) e^{it}; L = -i k² is complex, and up to 400 in size."""
    n, length = 256, 40.0
    x = (torch.arange(n, dtype=DOUBLE) / n - 0.5) * length
    k = 2 * math.pi * torch.fft.fftfreq(n, length / n, dtype=DOUBLE)
    linear = -1j * k**2

    def f(t: Tensor, v: Tensor) -> Tensor:
        u = torch.fft.ifft(v)
        return linear * v + 2j * torch.fft.fft(u.abs() ** 2 * u)

    start = (1 / torch.cosh(x)).to(torch.complex128)
    solution = solve(f, torch.fft.fft(start), [0.0, 1.0], solver=ETDRK4(linear), step_size=1 / 40)
    close(torch.fft.ifft(solution.y1), start * complex(math.cos(1.0), math.sin(1.0)), 1e-5)


def test_kuramoto_sivashinsky() -> None:
    """u' = -u u_x - u_xx - u_xxxx on 32π, as in Kassam and Trefethen's paper, against SciPy on small steps."""
    n = 64
    x = 32 * math.pi * torch.arange(n, dtype=DOUBLE) / n
    k = torch.cat([torch.arange(0, n // 2), torch.zeros(1), torch.arange(-n // 2 + 1, 0)]).to(DOUBLE) / 16
    linear = (k**2 - k**4).to(torch.complex128)

    def f(t: Tensor, v: Tensor) -> Tensor:
        return linear * v - 0.5j * k * torch.fft.fft(torch.fft.ifft(v).real ** 2)

    v0 = torch.fft.fft((torch.cos(x / 16) * (1 + torch.sin(x / 16))).to(torch.complex128))
    found = torch.fft.ifft(solve(f, v0, [0.0, 10.0], solver=ETDRK4(linear), step_size=0.5).y1).real

    def host(t: float, v: Any) -> Any:
        return f(torch.tensor(t), torch.from_numpy(v)).numpy()

    reference = solve_ivp(host, (0, 10), v0.numpy(), "DOP853", rtol=1e-9, atol=1e-9)
    close(found, torch.fft.ifft(torch.from_numpy(reference.y[:, -1])).real, 1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("options", [{"step_size": 0.1}, {"rtol": 1e-5, "atol": 1e-5}], ids=["fixed", "adaptive"])
def test_a_diagonal_and_its_matrix_agree(dtype: torch.dtype, options: dict[str, float]) -> None:
    linear = torch.tensor([-40.0, -1.0, 0.0, 0.5], dtype=DOUBLE) * (1 + 0.5j if dtype.is_complex else 1)
    narrow = linear.to(dtype)

    def f(t: Tensor, y: Tensor) -> Tensor:
        return narrow * y + torch.cos(t) - 0.1 * y.flip(-1) ** 2

    y0 = torch.linspace(0, 1, 12).reshape(3, 4).to(dtype)
    times = [0.0, 0.33, 1.0]
    one = solve(f, y0, times, solver=ETDRK4(linear), **options)
    other = solve(f, y0, times, solver=ETDRK4(torch.diag(linear)), **options)
    assert one.ys.dtype == other.ys.dtype == dtype
    torch.testing.assert_close(one.ys, other.ys, rtol=1e-4 if dtype.to_real() == torch.float32 else 1e-11, atol=1e-5)
    reference = solve(f, y0.to(dtype), times, solver="radau5", rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(one.ys, reference.ys, rtol=2e-3, atol=2e-3)


def test_what_steps_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four calls a step after the first slope; the weights of equal steps are made once, dense output costs nothing."""
    made = []
    phis = odekit_solvers.etdrk4.phis_of_matrix
    monkeypatch.setattr(odekit_solvers.etdrk4, "phis_of_matrix", lambda z: made.append(z) or phis(z))
    f = Counted(TIMED.f)
    solution = solve(f, TIMED.exact(0.2), [0.2, 0.55, 1.2], solver=ETDRK4(MATRIX), step_size=0.1)
    assert solution.stats.nfe == f.calls == 4 * 10 + 1
    assert len(made) == 1
    assert 0.2 <= min(f.times) <= max(f.times) <= 1.2


def wired(t: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    return torch.tanh(y @ weight) - 3 * y + torch.sin(t)


@pytest.mark.parametrize("gradient", ["direct", "checkpointed"])
@pytest.mark.parametrize("linear", [[-3.0, -2.0], [[-3.0, 0.5], [0.0, -2.0]]], ids=["diagonal", "matrix"])
def test_gradcheck(linear: Any, gradient: str) -> None:
    def outputs(y0: Tensor, weight: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        solution = solve(wired, y0, times, args=(weight,), solver=ETDRK4(linear), gradient=gradient, step_size=0.26)
        return solution.ys, solution.y1

    generator = torch.Generator().manual_seed(0)
    y0, weight = (torch.randn(2, 2, generator=generator, dtype=DOUBLE).requires_grad_() for _ in range(2))
    times = torch.tensor([0.0, 0.35, 1.0], dtype=DOUBLE, requires_grad=True)
    assert gradcheck(outputs, [y0, weight, times])


@pytest.mark.parametrize("linear", [DIAGONAL, MATRIX], ids=["diagonal", "matrix"])
def test_both_exact_gradients_agree(linear: Any) -> None:
    grads = []
    for gradient in ("direct", "checkpointed"):
        y0 = TIMED.exact(0.2).requires_grad_()
        times = torch.tensor([0.2, 0.9, 1.4, 2.0], dtype=DOUBLE, requires_grad=True)
        solution = solve(TIMED.f, y0, times, solver=ETDRK4(linear), gradient=gradient, jump_times=[1.0], rtol=1e-5)
        grads.append(torch.autograd.grad(solution.ys.square().sum() + solution.y1.sum(), [y0, times]))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_second_derivatives() -> None:
    """There are those with respect to the state; those with respect to the times would be wrong, and are an error."""
    y0, times = TIMED.exact(0.2).requires_grad_(), torch.tensor([0.2, 1.0], dtype=DOUBLE, requires_grad=True)

    def final(y: Tensor) -> Tensor:
        return solve(TIMED.f, y, [0.2, 1.0], solver=ETDRK4(MATRIX), step_size=0.2).y1.square().sum()

    assert torch.autograd.gradgradcheck(final, [y0])
    y1 = solve(TIMED.f, y0, times, solver=ETDRK4(MATRIX), step_size=0.2).y1
    (grad,) = torch.autograd.grad(y1.sum(), times, create_graph=True)
    with pytest.raises(GradientError, match="'etdrk4' has no second derivatives with respect to the output times"):
        torch.autograd.grad(grad.sum(), times)


def test_rows_on_their_own_steps() -> None:
    y0 = torch.stack([TIMED.exact(0.2), 1.5 * TIMED.exact(0.2)])
    ends = torch.tensor([[0.2, 1.0], [0.2, 2.0]], dtype=DOUBLE)
    rows = solve(
        lambda t, y: TIMED.f(t[..., 0], y) if t.ndim else TIMED.f(t, y),
        y0, ends, solver=ETDRK4(MATRIX), batch="rows",
    )  # fmt: skip
    for row in range(2):
        close(rows.ys[row], solve(TIMED.f, y0[row], ends[row], solver=ETDRK4(MATRIX)).ys, 1e-12)


@pytest.mark.parametrize("solver", ["etdrk4", ETDRK4, ETDRK4()], ids=["name", "class", "instance"])
def test_the_linear_part_has_to_be_told(solver: Any) -> None:
    with pytest.raises(OptionError, match=r"from odekit_solvers.etdrk4 import ETDRK4, and solver=ETDRK4\(linear=L\)"):
        solve(TIMED.f, TIMED.exact(0.2), [0.2, 1.0], solver=solver)


@pytest.mark.parametrize(
    ("linear", "words"),
    [
        ([[1.0, 2.0]], r"linear has the shape \(1, 2\); expected a matrix"),
        (3.0, r"linear has the shape \(\)"),
        ([], "shape"),
        ([[1.0], [1.0, 2.0]], "linear=.* expected a matrix"),
        ("stiff", "linear='stiff': expected a matrix"),
        ([1.0, math.nan], "NaN or infinite"),
        ([1.0, 2.0, 3.0], r"last axis of the state, whose shape is \(2,\); that axis has to have 3 entries"),
        ([1j, 2j], "linear is complex and the state torch.float64"),
    ],
    ids=str,
)
def test_linear_parts_that_do_not_fit(linear: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        solve(TIMED.f, TIMED.exact(0.2), [0.2, 1.0], solver=ETDRK4(linear))


def test_the_linear_part_is_a_setting() -> None:
    """It is copied, and a gradient that would be missed is an error."""
    linear = torch.tensor(DIAGONAL, dtype=DOUBLE)
    solver = ETDRK4(linear)
    before = solve(TIMED.f, TIMED.exact(0.2), [0.2, 1.0], solver=solver).y1
    linear.mul_(2)
    assert torch.equal(solve(TIMED.f, TIMED.exact(0.2), [0.2, 1.0], solver=solver).y1, before)
    with pytest.raises(GradientError, match=r"linear=L.detach\(\)"):
        ETDRK4(linear.requires_grad_())
    with pytest.raises(OptionError, match="'etdrk4' is for semilinear systems"):
        solve(TIMED.f, TIMED.exact(0.2), [0.2, 1.0], solver=solver, gradient="adjoint")
