"""`interpolated`: the adjoint along the forward trajectory, where solving the state backwards would fail."""

from __future__ import annotations

import gc
import math
import warnings
import weakref
from typing import Any

import pytest
import torch
from problems import DOUBLE, Counted, slope, solver_class
from torch import Tensor

from odekit import FixedStep, PIDControl, solve
from odekit.errors import InputError, SolveError
from odekit.gradients import Interpolated


def seeded(*shape: int, seed: int = 0, dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def driven(t: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    return torch.cos(t) * torch.tanh(y @ weight) - 0.1 * y**3


WEIGHT = (0.7 * seeded(2, 2, seed=1)).requires_grad_()
Y0 = (0.5 * seeded(3, 2)).requires_grad_()
TIMES = [0.0, 0.4, 1.0, 1.7]


def gradients(gradient: Any, **options: Any) -> Tensor:
    solution = solve(driven, Y0, TIMES, args=(WEIGHT,), gradient=gradient, **options)
    loss = (solution.ys * seeded(*solution.ys.shape, seed=2)).sum() + solution.y1.square().sum()
    return torch.cat([grad.reshape(-1) for grad in torch.autograd.grad(loss, [Y0, WEIGHT])])


MORE = ("euler", "kvaerno3", "radau5", "rodas4", "bdf")
TRUTH = gradients("direct", rtol=1e-12, atol=1e-13)


def error(found: Tensor) -> float:
    return float((found - TRUTH).abs().max() / TRUTH.abs().max())


@pytest.mark.parametrize(
    "solver", ["midpoint", "rk4", "dopri5", "dopri8", *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)]
)
def test_it_converges_at_the_order_of_the_solver_or_of_its_dense_output(solver: str) -> None:
    kind = solver_class(solver)
    order = min(kind.order, kind.dense_order + 1)
    sizes = {1: [0.04, 0.02, 0.01], 2: [0.1, 0.05, 0.025], 8: [0.85, 0.57, 0.34]}.get(order, [0.2, 0.1, 0.05])
    sizes = [size / 4 for size in sizes] if solver == "bdf" else sizes
    errors = [error(gradients("interpolated", solver=solver, step_size=size)) for size in sizes]
    assert slope(sizes, errors) > order - (0.4 if order < 7 else 1.2)


# Where the state cannot be solved backwards


@pytest.mark.parametrize("solver", ["dopri5", pytest.param("kvaerno3", marks=pytest.mark.slow)])
def test_a_strong_contraction_is_no_trouble(solver: str) -> None:
    """y' = -r (y - sin t) grows by exp(100) on its way back, and its adjoint decays. No warning either."""
    rate = torch.tensor(50.0, dtype=DOUBLE, requires_grad=True)
    y0 = torch.ones(1, dtype=DOUBLE, requires_grad=True)

    def f(t: Tensor, y: Tensor) -> Tensor:
        return -rate * (y - torch.sin(t))

    y1 = solve(f, y0, [0.0, 2.0], solver=solver, gradient="interpolated", rtol=1e-6, atol=1e-8).y1
    by_y0, by_rate = torch.autograd.grad(y1.sum(), [y0, rate])
    assert abs(float(by_y0)) < 1e-6

    def final(r: float) -> float:
        return (r * r * math.sin(2.0) - r * math.cos(2.0)) / (1 + r * r)  # the transient is gone

    exact = (final(50.01) - final(49.99)) / 0.02
    assert float(by_rate) == pytest.approx(exact, rel=1e-2)


def robertson(t: Tensor, y: Tensor, rates: Tensor) -> Tensor:
    a, b, c = y.unbind(-1)
    k = rates * torch.tensor([0.04, 1e4, 3e7], dtype=DOUBLE)
    return torch.stack([-k[0] * a + k[1] * b * c, k[0] * a - k[1] * b * c - k[2] * b**2, k[2] * b**2], -1)


def van_der_pol(t: Tensor, y: Tensor, rates: Tensor) -> Tensor:
    x, v = y.unbind(-1)
    return torch.stack([v, 100 * rates * (1 - x**2) * v - x], -1)


STIFF = {
    "robertson": (robertson, [1.0, 0.0, 0.0], [1.0, 1.0, 1.0], 100.0, [1.0, 1e4, 2.0], [1e-8, 1e-12, 1e-8]),
    "van der pol": (van_der_pol, [2.0, 0.0], 1.0, 50.0, [3.0, 0.0], [1e-8, 1e-8]),
}


@pytest.mark.parametrize("problem", ["van der pol", pytest.param("robertson", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "solver",
    [
        "rodas5p",
        pytest.param("kvaerno3", marks=pytest.mark.slow),
        pytest.param("radau5", marks=pytest.mark.slow),
        pytest.param("bdf", marks=pytest.mark.slow),
        pytest.param("auto_tsit5", marks=pytest.mark.slow),
    ],
)
def test_stiff_problems(solver: str, problem: str) -> None:
    """The adjoint is as stiff as the state, and an implicit solver takes both."""
    f, y0, rates, end, weights, atol = STIFF[problem]
    found = []
    for gradient, method, rtol in (("checkpointed", "radau5", 1e-8), ("interpolated", solver, 1e-6)):
        start, scale = (torch.tensor(x, dtype=DOUBLE, requires_grad=True) for x in (y0, rates))
        y1 = solve(
            f, start, [0.0, end], args=(scale,), solver=method, gradient=gradient, rtol=rtol,
            atol=torch.tensor(atol, dtype=DOUBLE),
        ).y1  # fmt: skip
        loss = (y1 * torch.tensor(weights, dtype=DOUBLE)).sum()
        found.append(torch.cat([x.reshape(-1) for x in torch.autograd.grad(loss, [start, scale])]))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=5e-5 * float(found[0].abs().max()))


@pytest.mark.parametrize("linear", ["dense", "rows", "gmres"])
def test_however_its_linear_systems_are_solved(linear: str) -> None:
    kvaerno3 = solver_class("kvaerno3")(linear=linear)
    assert error(gradients(Interpolated(solver=kvaerno3), rtol=1e-6, atol=1e-8)) < 1e-4


def test_no_time_is_lost_in_a_narrow_state() -> None:
    """At t = 10,000 float32 tells times apart by 0.001, where a fast state moves; the trajectory is asked exactly."""
    found = []
    for dtype in (torch.float32, DOUBLE):
        y0 = torch.tensor([1.0, 0.5], dtype=dtype, requires_grad=True)

        def f(t: Tensor, y: Tensor) -> Tensor:
            return 20 * torch.stack([y[1], -torch.sin(y[0])])

        y1 = solve(f, y0, [1e4, 1e4 + 1], gradient="interpolated", rtol=1e-6, atol=1e-6).y1
        found.append(torch.autograd.grad(y1.sum(), y0)[0].double())
    torch.testing.assert_close(found[0], found[1], rtol=3e-4, atol=3e-4)


# Settings


def cost(gradient: Any, **options: Any) -> tuple[int, int]:
    """Evaluations forwards and backwards."""
    solution = solve(driven, Y0, [0.0, 1.7], args=(WEIGHT,), gradient=gradient, **options)
    solution.y1.sum().backward(inputs=[Y0])
    return solution.stats.nfe, solution.stats.nfe_backward


def test_its_settings_count() -> None:
    """A step costs its stages, what dense output takes, and one call for every node of the quadrature."""
    options = {"solver": "rk4", "step_size": 0.1}
    assert cost(Interpolated(), **options) == (17 * (4 + 1), 17 * (4 + 1 + 2))
    assert cost(Interpolated(solver="dopri5"), **options)[1] == 17 * (6 + 1 + 3)
    assert cost(Interpolated(step_size=0.05), **options)[1] == 34 * (4 + 1 + 2)
    assert cost(Interpolated(control=FixedStep(0.17)), **options)[1] == 10 * (4 + 1 + 2)
    adaptive = Interpolated(solver="dopri5", control=PIDControl(first_step=0.1), rtol=1e-3, atol=1e-3)
    assert cost(adaptive, **options)[1] < 60
    tight = {"rtol": 1e-9, "atol": 1e-11}
    loose, strict = (error(gradients(Interpolated(rtol=r, atol=r), **tight)) for r in (1e-2, 1e-8))
    assert strict < 1e-8 < 1e-7 < loose < 1e-2


def test_norms_and_hooks_see_the_adjoint_alone() -> None:
    seen, told = [], []

    def norm(a: Tensor) -> Tensor:
        seen.append(tuple(a.shape))
        return a.abs().amax()

    found = gradients(Interpolated(norm=norm, callback=lambda t, a: told.append(a.shape)), rtol=1e-8, atol=1e-10)
    assert error(found) < 1e-6
    assert set(seen) == set(told) == {(3, 2)}
    with pytest.raises(InputError, match="norm 'mixed' of the interpolated adjoint"):
        Interpolated(norm="mixed")


def test_a_backward_solve_that_fails_says_so() -> None:
    solution = solve(
        driven, Y0, [0.0, 1.7], args=(WEIGHT,), gradient=Interpolated(rtol=1e-12, atol=1e-13), max_steps=30
    )
    with pytest.raises(SolveError, match=r"backward solve of gradient='interpolated' stopped at t = .*max_steps"):
        solution.y1.sum().backward()


def test_only_sections_that_the_loss_can_feel_are_solved() -> None:
    f = Counted(driven)
    solution = solve(f, Y0, TIMES, args=(WEIGHT,), gradient="interpolated")
    forward = f.calls
    torch.autograd.grad(solution.ys[1].sum(), Y0)
    assert max(f.times[forward:]) <= TIMES[1]


def test_rows_are_solved_as_each_would_be_alone() -> None:
    y0 = (0.5 * seeded(3, 2)).requires_grad_()
    options = {"args": (WEIGHT,), "gradient": "interpolated", "rtol": 1e-5, "atol": 1e-7}
    whole = solve(driven, y0, TIMES, batch="rows", **options)
    found = torch.autograd.grad(whole.ys.square().sum(), [y0, WEIGHT])
    alone = [
        torch.autograd.grad(solve(driven, y0[k : k + 1], TIMES, **options).ys.square().sum(), [y0, WEIGHT])
        for k in range(3)
    ]
    for k in range(2):
        torch.testing.assert_close(found[k], sum(grads[k] for grads in alone))


# Memory


def test_steps_are_kept_only_where_there_is_a_way_back() -> None:
    kept = []
    for start in (Y0, Y0.detach()):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            solution = solve(driven, start, TIMES, args=(WEIGHT.detach(),), gradient="interpolated")
        node = solution.y1.grad_fn
        while node is not None and not hasattr(node, "tape"):
            node = node.next_functions[0][0]
        kept.append((node is not None and len(node.tape.trajectory.steps), solution.stats.accepted))
    assert kept[0][0] == kept[0][1]
    assert kept[1][0] is False


def test_the_callers_own_dense_output_is_there_too() -> None:
    solution = solve(driven, Y0, TIMES, args=(WEIGHT,), gradient="interpolated", dense=True)
    torch.testing.assert_close(solution.interpolate(1.0).detach(), solution.ys[2].detach())
    (found,) = torch.autograd.grad(solution.y1.sum(), Y0)
    expected = torch.autograd.grad(solve(driven, Y0, TIMES, args=(WEIGHT,), gradient="interpolated").y1.sum(), Y0)[0]
    assert torch.equal(found, expected)


def test_nothing_is_left_when_the_answer_is_gone() -> None:
    solution = solve(driven, Y0, TIMES, args=(WEIGHT,), gradient="interpolated")
    node = solution.y1.grad_fn
    while not hasattr(node, "tape"):
        node = node.next_functions[0][0]
    trajectory = weakref.ref(node.tape.trajectory)
    del solution, node
    gc.collect()
    assert trajectory() is None


def test_rows_without_gradients_step_together() -> None:
    calls = []

    def f(t: Tensor, y: Tensor) -> Tensor:
        calls.append(len(y))
        return -y

    with torch.no_grad():
        solution = solve(f, torch.ones(50, 2, dtype=DOUBLE), [0.0, 1.0], gradient="interpolated", batch="rows")
    assert len(calls) < 100
    torch.testing.assert_close(solution.y1, torch.full((50, 2), math.exp(-1), dtype=DOUBLE))


def test_images_with_channels_last_in_memory() -> None:
    """Group normalisation laid out so crashed the process where the gradient of parameters alone was asked for."""
    f = torch.nn.Sequential(torch.nn.GroupNorm(2, 4), torch.nn.Conv2d(4, 4, 3, padding=1)).double()
    y0 = seeded(2, 4, 3, 3).to(memory_format=torch.channels_last)

    def parameters(y: Tensor) -> list[Tensor]:
        solution = solve(lambda t, x: f(x), y, [0.0, 0.5], gradient="interpolated", rtol=1e-6)
        return list(torch.autograd.grad(solution.y1.square().sum(), list(f.parameters())))

    for found, expected in zip(parameters(y0), parameters(y0.contiguous()), strict=True):
        torch.testing.assert_close(found, expected)
