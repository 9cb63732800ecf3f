"""What both continuous adjoints must do: converge, for every kind of state, through events, jumps and nested calls."""

from __future__ import annotations

import functools
import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import DOUBLE, Counted
from torch import Tensor, nn
from torch.autograd import gradgradcheck

from odekit import Event, solve
from odekit.errors import GradientError, OptionError
from odekit.gradients import Adjoint, Interpolated

METHODS = {
    "integral": Adjoint(quadrature=False),
    "quadrature": Adjoint(quadrature=True),
    "interpolated": Interpolated(),
}
methods = pytest.mark.parametrize("gradient", METHODS.values(), ids=METHODS)
TIGHT = {"rtol": 1e-9, "atol": 1e-11}


def seeded(*shape: int, seed: int = 0, dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def driven(t: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    return torch.cos(t) * torch.tanh(y @ weight) - 0.1 * y**3


def predators(t: Tensor, y: Tensor, rates: Tensor) -> Tensor:
    """Lotka and Volterra's."""
    prey, others = y.unbind(-1)
    return torch.stack([prey * (rates[0] - rates[1] * others), others * (rates[2] * prey - rates[3])], -1)


PROBLEMS: dict[str, tuple[Callable[..., Tensor], Tensor, Tensor, list[float]]] = {
    "driven": (driven, 0.5 * seeded(3, 2), 0.7 * seeded(2, 2, seed=1), [0.0, 0.4, 1.0, 1.7]),
    "predators": (
        predators,
        torch.tensor([1.0, 0.5], dtype=DOUBLE),
        torch.tensor([1.5, 1.0, 1.0, 1.2], dtype=DOUBLE),
        [0.0, 2.0, 4.0],
    ),
}


def gradients(problem: str, gradient: Any, **options: Any) -> Tensor:
    """All gradients of a loss that looks at every output, in one vector."""
    f, y0, parameter, times = PROBLEMS[problem]
    y0, parameter = y0.clone().requires_grad_(), parameter.clone().requires_grad_()
    t = torch.tensor(times, dtype=DOUBLE, requires_grad=True)
    solution = solve(f, y0, t, args=(parameter,), gradient=gradient, **options)
    loss = (solution.ys * seeded(*solution.ys.shape, seed=2)).sum() + solution.y1.square().sum()
    return torch.cat([grad.reshape(-1) for grad in torch.autograd.grad(loss, [y0, parameter, t])])


@functools.cache
def exact(problem: str) -> Tensor:
    return gradients(problem, "checkpointed", solver="dopri8", rtol=1e-12, atol=1e-13)


@methods
@pytest.mark.parametrize("solver", ["dopri5", pytest.param("kvaerno3", marks=pytest.mark.slow)])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_gradient_converges_as_the_tolerance_falls(problem: str, solver: str, gradient: Any) -> None:
    """From 1e-2 to 1e-8, getting better all the time."""
    decades = (2, 4, 6, 8) if solver == "dopri5" else (2, 3, 4, 5)
    truth, errors = exact(problem), []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for decade in decades:
            found = gradients(problem, gradient, solver=solver, rtol=10.0**-decade, atol=10.0**-decade)
            errors.append(float((found - truth).abs().max() / truth.abs().max()))
    assert all(later < earlier / 3 for earlier, later in itertools.pairwise(errors)), errors
    assert errors[0] < 0.1
    assert errors[-1] < 30 * 10.0 ** -decades[-1]


@methods
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128], ids=str)
def test_other_dtypes(dtype: torch.dtype, gradient: Any) -> None:
    rate = torch.tensor(-0.5 + 1j if dtype.is_complex else -0.5, dtype=dtype, requires_grad=True)
    y0 = seeded(3, 2, dtype=dtype).requires_grad_()

    def grads(gradient: Any) -> tuple[Tensor, ...]:
        ys = solve(lambda t, y: rate * y - 0.1 * y**2 * t, y0, [0.0, 0.4, 1.0], gradient=gradient).ys
        return torch.autograd.grad((ys * seeded(*ys.shape, seed=3, dtype=dtype)).abs().square().sum(), [y0, rate])

    for found, truth in zip(grads(gradient), grads("direct"), strict=True):
        assert found.dtype == dtype
        torch.testing.assert_close(found, truth, rtol=2e-3, atol=2e-3)


@methods
def test_a_function_of_complex_numbers_that_is_not_holomorphic(gradient: Any) -> None:
    y0 = seeded(2, dtype=torch.complex128).requires_grad_()
    rate = torch.tensor(0.3 - 0.4j, dtype=torch.complex128, requires_grad=True)
    found = []
    for method in ("direct", gradient):
        y1 = solve(lambda t, y: rate * y.conj() - 0.1 * y * y.abs(), y0, [0.0, 1.0], gradient=method, **TIGHT).y1
        found.append(torch.autograd.grad(y1.abs().square().sum(), [y0, rate]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-7)


@methods
def test_nested_states(gradient: Any) -> None:
    y0 = {"a": seeded(3, 2).requires_grad_(), "b": seeded(3, seed=4).requires_grad_()}

    def f(t: Tensor, y: Any) -> Any:
        return {"a": torch.sin(y["a"]) - y["b"][:, None], "b": 0.1 * y["a"].sum(1)}

    grads = []
    for method in ("direct", gradient):
        ys = solve(f, y0, [0.0, 0.3, 1.0], gradient=method, **TIGHT).ys
        grads.append(torch.autograd.grad(ys["a"].square().sum() + ys["b"].sum(), [y0["a"], y0["b"]]))
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-6, atol=1e-7)


@methods
@pytest.mark.parametrize("batch", ["shared", "rows"])
def test_the_time_of_a_terminal_event(batch: str, gradient: Any) -> None:
    """A body falls from h: it lands at t = √(2h/g), with the speed √(2hg), inside a step of the solver."""
    gravity = torch.tensor(9.81, dtype=DOUBLE, requires_grad=True)
    start = torch.tensor([[2.0, 0.0]], dtype=DOUBLE, requires_grad=True)

    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.cat([y[:, 1:], (-gravity + 0 * y[:, 1:])], 1)

    def height(t: Tensor, y: Tensor) -> Tensor:
        return y[:, 0] if batch == "rows" else y[0, 0]

    solution = solve(f, start, [0.0, 3.0], events=height, gradient=gradient, batch=batch, **TIGHT)
    landed = solution.events[0].ts.sum()
    assert float(landed.detach()) == pytest.approx(math.sqrt(4 / 9.81))
    by_start, by_gravity = torch.autograd.grad(landed, [start, gravity], retain_graph=True)
    assert float(by_gravity) == pytest.approx(-0.5 * math.sqrt(4 / 9.81**3), rel=1e-6)
    assert float(by_start[0, 0]) == pytest.approx(1 / math.sqrt(4 * 9.81), rel=1e-6)
    (by_gravity,) = torch.autograd.grad(solution.events[0].ys[..., 1].sum(), gravity)
    assert float(by_gravity) == pytest.approx(-math.sqrt(1 / 9.81), rel=1e-6)


@methods
def test_a_ball_that_bounces(gradient: Any) -> None:
    """Legs have trajectories of their own; equal to direct."""

    def f(t: Tensor, y: Tensor, gravity: Tensor) -> Tensor:
        return torch.stack([y[1], -gravity - 0.1 * y[1]])

    bounce = Event(lambda t, y, g: y[0], jump=lambda t, y, g: torch.stack([torch.zeros_like(y[0]), -0.8 * y[1]]))
    found = []
    for method in ("direct", gradient):
        gravity = torch.tensor(9.81, dtype=DOUBLE, requires_grad=True)
        y0 = torch.tensor([1.0, 0.0], dtype=DOUBLE, requires_grad=True)
        t = torch.tensor([0.0, 0.7, 1.3], dtype=DOUBLE, requires_grad=True)
        solution = solve(f, y0, t, args=(gravity,), events=bounce, gradient=method, **TIGHT)
        found.append(torch.autograd.grad(solution.ys.square().sum(), [y0, t, gravity]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-7)


@methods
@pytest.mark.parametrize("batch", ["shared", "rows"])
@pytest.mark.parametrize("t", [[0.0, 1.0], [1.0, 0.0]], ids=["forwards", "backwards"])
def test_discontinuities_of_f(t: list[float], batch: str, gradient: Any) -> None:
    """y' = -θ y until 0.4 and 3θ y afterwards: y(1) = y0 exp(1.4 θ). f is asked on the right side at all times."""
    rate = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)
    y0 = torch.ones(2, 1, dtype=DOUBLE, requires_grad=True)

    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t < 0.4, -rate * y, 3 * rate * y)

    solution = solve(f, y0, t, jump_times=[0.4], gradient=gradient, batch=batch, **TIGHT)
    factor = 1.4 if t[1] > t[0] else -1.4
    by_rate, by_y0 = torch.autograd.grad(solution.y1.sum(), [rate, y0])
    assert float(by_rate) == pytest.approx(2 * factor * math.exp(0.7 * factor), rel=1e-7)
    assert by_y0[:, 0].tolist() == pytest.approx(2 * [math.exp(0.7 * factor)], rel=1e-7)
    assert solution.stats.nfe_backward < (
        400 if batch == "shared" else 800
    )  # many more if one of the steps crossed the discontinuity


@methods
def test_a_function_that_differentiates_inside_itself(gradient: Any) -> None:
    """A Hamiltonian system: the field is the gradient of an energy with parameters."""
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double()

    def f(t: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            y = y if y.requires_grad else y.detach().requires_grad_()
            slope = torch.autograd.grad(net(y).sum(), y, create_graph=True)[0]
        return torch.stack([slope[:, 1], -slope[:, 0]], 1)

    y0, found = seeded(3, 2).requires_grad_(), []
    for method in ("direct", gradient):
        y1 = solve(f, y0, [0.0, 1.0], gradient=method, **TIGHT).y1
        found.append(torch.autograd.grad(y1.square().sum(), [y0, *net.parameters()], allow_unused=True))
    torch.testing.assert_close(found[1][:-1], found[0][:-1], rtol=1e-6, atol=1e-7)


@pytest.mark.slow
@methods
@pytest.mark.parametrize("batch", ["shared", "rows"])
@pytest.mark.parametrize("dtype", [DOUBLE, torch.complex128], ids=str)
def test_second_derivatives(dtype: torch.dtype, batch: str, gradient: Any) -> None:
    """With respect to the state, a parameter and the times."""

    def outputs(y0: Tensor, weight: Tensor, t: Tensor) -> Tensor:
        solution = solve(
            lambda t, y, w: torch.sin(t) * y * w - 0.1 * y**2, y0, t, args=(weight,), gradient=gradient, batch=batch,
            rtol=1e-10, atol=1e-11,
        )  # fmt: skip
        return solution.ys

    t = torch.tensor([0.0, 0.3, 0.8], dtype=DOUBLE, requires_grad=True)
    inputs = (seeded(2, 1, dtype=dtype).requires_grad_(), seeded(seed=1, dtype=dtype).requires_grad_(), t)
    assert gradgradcheck(outputs, inputs, rtol=1e-4, atol=1e-5)


@methods
def test_second_derivatives_with_an_event_on_the_way(gradient: Any) -> None:
    """y = g (t²/2 + t⁴/12): exact to the method, so that the second derivative of y² by g is 2 (t²/2 + t⁴/12)²."""
    rate = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)

    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[1], rate * (1 + t**2)])

    passed = Event(lambda t, y: y[0] - 0.5, terminal=False)
    solution = solve(f, torch.zeros(2, dtype=DOUBLE), [0.0, 2.0], events=passed, gradient=gradient, **TIGHT)
    assert len(solution.events[0].ts) == 1
    (first,) = torch.autograd.grad(solution.y1[0].square(), rate, create_graph=True)
    (second,) = torch.autograd.grad(first, rate)
    assert float(second) == pytest.approx(2 * (2 + 16 / 12) ** 2, rel=1e-6)


@methods
def test_every_call_is_counted(gradient: Any) -> None:
    f = Counted(driven)
    y0, weight = seeded(3, 2).requires_grad_(), seeded(2, 2, seed=1).requires_grad_()
    solution = solve(f, y0, [0.0, 0.4, 1.0], args=(weight,), gradient=gradient)
    torch.autograd.grad(solution.y1.sum(), [y0, weight])
    assert f.calls == solution.stats.nfe + solution.stats.nfe_backward
    assert min(f.times) == 0.0
    assert max(f.times) == 1.0


@methods
def test_a_solver_for_other_systems_cannot_go_back(gradient: Any) -> None:
    y0 = torch.ones(2, requires_grad=True)

    def pendulum(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[1], -torch.sin(y[0])])

    with pytest.raises(OptionError, match=rf"gradient='{gradient.name}' solves backwards.*solver='dopri5'"):
        solve(pendulum, y0, [0.0, 1.0], solver="leapfrog", step_size=0.1, gradient=gradient)


@methods
def test_third_derivatives_are_an_error(gradient: Any) -> None:
    y0 = seeded(3, 2).requires_grad_()
    y1 = solve(driven, y0, [0.0, 1.0], args=(seeded(2, 2, seed=1),), gradient=gradient).y1
    (grad,) = torch.autograd.grad(y1.square().sum(), y0, create_graph=True)
    (second,) = torch.autograd.grad(grad.square().sum(), y0, create_graph=True)
    with pytest.raises((GradientError, RuntimeError), match=r"third derivatives|once_differentiable"):
        second.sum().backward()
