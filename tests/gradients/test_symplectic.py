"""The symplectic adjoint method: the numbers of `direct`, with the activations of one call of f at a time."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import optree
import pytest
import torch
from as_direct import assert_as_direct, driven, seeded
from problems import ADAPTIVE, DOUBLE, SOLVERS, Counted, solver_class
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from odekit import Event, Status, solve
from odekit.core.runge_kutta import ExplicitRungeKutta
from odekit.errors import GradientError, InputError
from odekit.gradients import Symplectic

RUNGE_KUTTA = [name for name in SOLVERS if issubclass(solver_class(name), ExplicitRungeKutta)]
OTHERS = ["kvaerno3", "radau5", "bdf", "rodas5p", "adams_bashforth", "alf", "auto_tsit5", "leapfrog"]


# The numbers


@pytest.mark.parametrize("t", [[0.0, 0.11, 0.5, 0.5, 1.3], [1.3, 0.7, 0.0]], ids=["forwards", "backwards"])
@pytest.mark.parametrize(
    ("solver", "adaptive"),
    [*((name, False) for name in RUNGE_KUTTA), *((name, True) for name in RUNGE_KUTTA if name in ADAPTIVE)],
)
def test_it_is_direct_to_rounding(solver: str, adaptive: bool, t: list[float]) -> None:
    """With outputs between steps, and the times differentiated too."""
    options = {"rtol": 1e-3, "atol": 1e-4} if adaptive else {"step_size": 0.27}
    y0 = (0.5 * seeded(3, 2)).requires_grad_()
    weight, shift = (0.7 * seeded(2, 2, seed=1)).requires_grad_(), seeded(2, seed=2).requires_grad_()
    times = torch.tensor(t, dtype=DOUBLE, requires_grad=True)
    options |= {"solver": solver, "args": (weight, shift)}
    assert_as_direct("symplectic", driven, y0, t, [y0, weight, shift], **options)
    assert_as_direct("symplectic", driven, y0, times, [y0, weight, shift, times], digits=1e-10, **options)


@pytest.mark.parametrize("budget", [1, 3, "sqrt"])
def test_a_budget_changes_nothing(budget: int | str) -> None:
    y0, weight = (0.5 * seeded(3, 2)).requires_grad_(), (0.7 * seeded(2, 2, seed=1)).requires_grad_()
    args = weight, seeded(2, seed=2)
    method = Symplectic(budget=budget)
    assert_as_direct(method, driven, y0, [0.0, 0.3, 1.0], [y0, weight], args=args, solver="rk4", step_size=0.1)
    with pytest.raises(InputError, match="budget"):
        Symplectic(budget=0)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["heun", "tsit5"])
def test_gradcheck_and_gradgradcheck(solver: str) -> None:
    def outputs(y0: Tensor, weight: Tensor, shift: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        options = {"solver": solver, "gradient": "symplectic", "step_size": 1.0}
        solution = solve(driven, y0, times, args=(weight, shift), **options)
        return solution.ys, solution.y1

    times = torch.tensor([0.0, 0.35, 0.9], dtype=DOUBLE)
    inputs = [0.5 * seeded(1, 2), 0.5 * seeded(2, 2, seed=1), seeded(2, seed=2), times]
    inputs = [x.requires_grad_() for x in inputs]
    assert gradcheck(outputs, inputs, rtol=1e-4, atol=1e-6)
    assert gradgradcheck(outputs, inputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("solver", ["heun", "dopri5"])
def test_other_dtypes(solver: str, dtype: torch.dtype) -> None:
    def f(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
        return rate * y - 0.1 * y**2 * t

    y0 = seeded(3, 2, dtype=dtype).requires_grad_()
    rate = torch.tensor(-0.5 + 1j if dtype.is_complex else -0.5, dtype=dtype, requires_grad=True)
    digits = 1e-11 if dtype is torch.complex128 else 1e-4
    assert_as_direct(
        "symplectic", f, y0, [0.0, 0.4, 1.0], [y0, rate], digits, solver=solver, args=(rate,), step_size=0.13
    )


def test_nested_states() -> None:
    y0 = {"a": seeded(3).requires_grad_(), "b": (seeded(2, 2).requires_grad_(), seeded().requires_grad_())}
    rate = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)

    def f(t: Tensor, y: Any) -> Any:
        mean = sum(leaf.mean() for leaf in optree.tree_leaves(y))
        return optree.tree_map(lambda leaf: torch.sin(leaf) * rate - leaf * mean**2, y)

    assert_as_direct("symplectic", f, y0, [0.0, 0.3, 1.0], [*optree.tree_leaves(y0), rate], digits=1e-10)


@pytest.mark.parametrize("t", [[0.5], [0.5, 0.5], [0.5, 0.5, 0.5]], ids=str)
def test_a_span_of_nothing(t: list[float]) -> None:
    y0, times = seeded(3, 2).requires_grad_(), torch.tensor(t, dtype=DOUBLE, requires_grad=True)
    weight = seeded(2, 2, seed=1).requires_grad_()
    wrt = [y0] if len(t) == 1 else [y0, times]
    assert_as_direct("symplectic", driven, y0, times, wrt, args=(weight, seeded(2, seed=2)))


def test_steps_forced_to_end_and_fields_that_jump() -> None:
    weight, y0 = seeded(2, 2, seed=1).requires_grad_(), (0.5 * seeded(3, 2)).requires_grad_()

    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(y @ weight) if t < 0.5 else -y @ weight

    options: dict[str, Any] = {"jump_times": [0.5], "step_times": [0.2, 0.8], "rtol": 1e-4}
    assert_as_direct("symplectic", f, y0, [0.0, 0.4, 0.6, 1.0], [y0, weight], digits=1e-10, **options)


@pytest.mark.parametrize("batch", ["shared", "rows"])
def test_bounces_and_the_time_of_an_event(batch: str) -> None:
    """A ball falls from height h: it is at the ground for the third time after (1 + 2 e + 2 e²) √(2 h / g)."""
    height = torch.tensor([1.0, 1.1], dtype=DOUBLE, requires_grad=True)
    gravity = torch.tensor(9.0, dtype=DOUBLE, requires_grad=True)
    bounce = Event(
        lambda t, y, g: y[..., 0].flatten() if batch == "rows" else y[0],
        direction=-1,
        jump=lambda t, y, g: torch.stack([y[..., 0], -0.5 * y[..., 1]], -1),
    )
    y0 = torch.stack([height, torch.zeros_like(height)], -1)
    solution = solve(
        lambda t, y, g: torch.stack([y[..., 1], -g.expand_as(y[..., 1])], -1), y0 if batch == "rows" else y0[0],
        [0.0, 1.25], args=(gravity,), events=bounce, gradient="symplectic", solver="bosh3", batch=batch,
    )  # fmt: skip
    third = solution.events[0].ts[..., 2]
    by_height, by_gravity = torch.autograd.grad(third.sum(), [height, gravity])
    fall = (2 * height.detach() / 9).sqrt() * (1 + 2 * 0.5 + 2 * 0.25)
    fall = fall if batch == "rows" else fall[:1]
    torch.testing.assert_close(third.detach().reshape(-1), fall, rtol=1e-6, atol=0)
    torch.testing.assert_close(by_height[: len(fall)], fall / (2 * height.detach()[: len(fall)]), rtol=1e-5, atol=0)
    assert float(by_gravity) == pytest.approx(-float(fall.sum()) / 18, rel=1e-5)


def test_rows_on_their_own_steps() -> None:
    y0, weight = (0.5 * seeded(3, 2)).requires_grad_(), (0.7 * seeded(2, 2, seed=1)).requires_grad_()
    t = torch.tensor([[0.0, 0.3, 1.0], [0.5, 0.2, -0.4], [0.1, 0.1, 0.1]], dtype=DOUBLE, requires_grad=True)
    args = weight, seeded(2, seed=2)
    options: dict[str, Any] = {"args": args, "batch": "rows"}
    assert_as_direct("symplectic", driven, y0, t, [y0, weight, t], digits=1e-9, **options)
    with torch.no_grad():
        plain = solve(driven, y0, t, gradient="symplectic", **options).ys
    torch.testing.assert_close(plain, solve(driven, y0, t, **options).ys.detach(), rtol=1e-12, atol=0)


# What f may be


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(2, 2).double()
        self.again = self.inner
        self.frozen = nn.Linear(2, 2).double().requires_grad_(False)
        self.unused = nn.Linear(2, 2).double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.again(torch.tanh(self.frozen(torch.tanh(self.inner(y))))) * (1 + t)


def test_shared_frozen_and_unused_parameters() -> None:
    f = Net()
    assert_as_direct("symplectic", f, seeded(3, 2), [0.0, 0.4, 1.0], [*f.inner.parameters(), *f.unused.parameters()])


def test_a_captured_tensor_that_is_itself_computed_and_a_captured_state() -> None:
    leaf, y0 = torch.tensor(0.5, dtype=DOUBLE, requires_grad=True), seeded(3).requires_grad_()
    found = []
    for gradient in ("direct", "symplectic"):
        weight = leaf**2 + 0.45
        y1 = solve(lambda t, y, w=weight: y0 - w * y, y0, [0.0, 1.0], gradient=gradient).y1
        found.append(torch.autograd.grad(y1.square().sum(), [leaf, y0]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-11, atol=1e-12)


def test_f_may_differentiate_inside_itself_and_stop_gradients() -> None:
    """A Hamiltonian system with friction that is computed without gradients."""
    stiffness = torch.tensor(2.0, dtype=DOUBLE, requires_grad=True)

    def f(t: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            y = y if y.requires_grad else y.detach().requires_grad_()
            energy = (y[1] ** 2 / 2 + stiffness * y[0] ** 2 / 2).sum()
            (slope,) = torch.autograd.grad(energy, y, create_graph=True)
        with torch.no_grad():
            friction = 0.1 * y[1].square() * stiffness
        return torch.stack([slope[1], -slope[0] - friction])

    y0 = seeded(2, 3).requires_grad_()
    assert_as_direct("symplectic", f, y0, [0.0, 0.4, 1.0], [y0, stiffness])


@pytest.mark.parametrize("f", [lambda t, y: torch.zeros_like(y), lambda t, y: y.detach(), lambda t, y: 0 * y + t])
def test_fields_that_do_not_depend_on_anything(f: Callable[[Tensor, Tensor], Tensor]) -> None:
    y0 = seeded(2).requires_grad_()
    assert_as_direct("symplectic", f, y0, [0.0, 1.0], [y0])


def test_a_hidden_tensor_is_an_error() -> None:
    hidden: dict[str, Any] = {}

    class Hiding:
        __slots__ = ()

        def __call__(self, t: Tensor, y: Tensor) -> Tensor:
            return -y if t < 0.5 else hidden["lookup"]() * y

    weight = torch.ones((), dtype=DOUBLE, requires_grad=True)
    hidden["lookup"] = lambda: weight
    y1 = solve(Hiding(), seeded(2).requires_grad_(), [0.0, 1.0], gradient="symplectic").y1
    with pytest.raises(GradientError, match="gradient='symplectic' did not find"):
        y1.sum().backward()


# Costs


@pytest.mark.parametrize("solver", ["dopri8", "rk4"])
def test_the_activations_of_one_call_are_alive_at_a_time(solver: str) -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0
    weight = torch.ones(3, dtype=DOUBLE, requires_grad=True)

    def f(t: Tensor, y: Tensor) -> Tensor:
        nonlocal most
        inner = torch.sin(weight * y)
        alive.append(weakref.ref(inner))
        most = max(most, sum(ref() is not None for ref in alive))
        return -inner * torch.cos(inner)

    solution = solve(f, seeded(3), [0.0, 0.4, 1.0], gradient="symplectic", solver=solver, step_size=0.1)
    solution.ys.sum().backward()
    assert len(alive) > 80
    assert most == 1


def test_two_calls_a_stage_on_the_way_back_and_every_call_counted() -> None:
    weight = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)
    f = Counted(lambda t, y: -weight * y)
    solution = solve(f, seeded(3), [0.0, 1.0], gradient="symplectic", solver="rk4", step_size=0.1)
    loss = solution.y1.sum()
    first = torch.autograd.grad(loss, weight, retain_graph=True)
    assert solution.stats.nfe_backward == 2 * 4 * 10
    assert solution.stats.steps_backward == 10
    assert f.calls == solution.stats.nfe + 80
    assert torch.equal(torch.autograd.grad(loss, weight)[0], first[0])


# What it refuses


@pytest.mark.parametrize("batch", ["shared", "rows"])
@pytest.mark.parametrize("solver", OTHERS)
def test_other_solvers_are_refused_at_the_door(solver: str, batch: str) -> None:
    options: dict[str, Any] = {"step_size": 0.1, "gradient": "symplectic", "batch": batch}
    with pytest.raises(GradientError, match=f"solver '{solver}' is none; choose one, such as 'dopri5'"):
        solve(lambda t, y: -y, torch.ones(2, 2, dtype=DOUBLE), [0.0, 1.0], solver=solver, **options)


def test_a_failed_solve_keeps_the_gradient_of_what_was_reached() -> None:
    """y' = y² from 1: y = 1/(1 - t)."""
    y0 = torch.tensor([1.0], dtype=DOUBLE, requires_grad=True)
    options: dict[str, Any] = {"solver": "rk4", "step_size": 0.02, "throw": False}
    solution = solve(lambda t, y: y**2, y0, [0.0, 0.505, 3.0], gradient="symplectic", **options)
    assert solution.status is Status.NON_FINITE
    (grad,) = torch.autograd.grad(solution.y1.sum() + solution.ys[1].sum(), y0)
    assert float(grad) == pytest.approx(2 / (1 - 0.505) ** 2, rel=1e-4)
    assert math.isfinite(float(grad))
