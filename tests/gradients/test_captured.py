"""Whatever f depends on gets its gradient, wherever it is kept; and what cannot be found is an error."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from problems import DOUBLE, GRADIENTS
from torch import Tensor, nn

from odekit import solve
from odekit.errors import GradientError

OWN_BACKWARD = ["checkpointed", "adjoint", "interpolated"]
GLOBAL = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)
HIDDEN = types.ModuleType("hidden")
Weight = Tensor
Field = Callable[[Tensor, Tensor], Tensor]


def in_closure(weight: Weight) -> Field:
    return lambda t, y: -weight * y


def in_closure_of_a_helper(weight: Weight) -> Field:
    def helper(y: Tensor) -> Tensor:
        return weight * y

    def f(t: Tensor, y: Tensor) -> Tensor:
        return -helper(y)

    return f


def in_default(weight: Weight) -> Field:
    def f(t: Tensor, y: Tensor, w: Tensor = weight) -> Tensor:
        return -w * y

    return f


def in_keyword_default(weight: Weight) -> Field:
    def f(t: Tensor, y: Tensor, *, w: Tensor = weight) -> Tensor:
        return -w * y

    return f


def in_partial(weight: Weight) -> Field:
    def f(w: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return -w * y

    return functools.partial(f, weight)


def in_keyword_partial(weight: Weight) -> Field:
    def f(t: Tensor, y: Tensor, w: Any) -> Tensor:
        return -w["deep"][0] * y

    return functools.partial(f, w={"deep": [weight]})


class Plain:
    def __init__(self, weight: Weight) -> None:
        self.weight = weight

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        return -self.weight * y

    def field(self, t: Tensor, y: Tensor) -> Tensor:
        return -self.weight * y


class Module(nn.Module):
    def __init__(self, weight: Weight) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=DOUBLE))
        self.parts = {"plain": Plain(weight)}

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.weight.detach() * self.parts["plain"](t, y)


class Holder(nn.Module):
    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight


def in_captured_module(weight: nn.Parameter) -> Field:
    """As is usual where f is a lambda around a network."""
    holder = Holder(weight)
    return lambda t, y: -holder.weight * y


def in_wrapped(weight: Weight) -> Field:
    inner = in_closure(weight)

    @functools.wraps(inner)
    def f(t: Tensor, y: Tensor) -> Tensor:
        return inner(t, y)

    return f


PLACES = {
    "closure": in_closure,
    "closure of a helper": in_closure_of_a_helper,
    "default": in_default,
    "keyword default": in_keyword_default,
    "partial": in_partial,
    "keyword partial": in_keyword_partial,
    "attribute": Plain,
    "bound method": lambda weight: Plain(weight).field,
    "plain object in a module": Module,
    "wrapped function": in_wrapped,
    "captured module": in_captured_module,
}


def gradient_of(f: Field, weight: Tensor, gradient: str, **options: Any) -> float | None:
    solution = solve(f, torch.ones(2, dtype=DOUBLE), [0.0, 1.0], gradient=gradient, **options)
    (grad,) = torch.autograd.grad(solution.y1.sum(), weight, allow_unused=True)
    return None if grad is None else float(grad)


def exact(weight: Tensor) -> float:
    """y(1) = exp(-w), twice."""
    return -2 * float(weight.detach().neg().exp())


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_is_found_wherever_it_is_kept(place: str, gradient: str) -> None:
    weight = nn.Parameter(torch.tensor(0.7, dtype=DOUBLE))
    assert gradient_of(PLACES[place](weight), weight, gradient) == pytest.approx(exact(weight), rel=1e-5)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_global_is_found(gradient: str) -> None:
    assert gradient_of(lambda t, y: -GLOBAL * y, GLOBAL, gradient) == pytest.approx(exact(GLOBAL), rel=1e-5)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_captured_tensor_that_is_itself_computed(gradient: str) -> None:
    """As a hypernetwork gives it: the gradient reaches what it was computed from."""
    leaf = torch.tensor(0.5, dtype=DOUBLE, requires_grad=True)
    weight = leaf**2 + 0.45
    grad = gradient_of(lambda t, y: -weight * y, leaf, gradient)
    assert grad == pytest.approx(exact(weight) * 2 * 0.5, rel=1e-5)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_an_argument_that_is_itself_computed(gradient: str) -> None:
    leaf = torch.tensor(0.5, dtype=DOUBLE, requires_grad=True)
    weight = leaf**2 + 0.45
    grad = gradient_of(lambda t, y, w: -w * y, leaf, gradient, args=(weight,))
    assert grad == pytest.approx(exact(weight) * 2 * 0.5, rel=1e-5)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_parameters_of_a_module_that_is_an_argument(gradient: str) -> None:
    holder = Holder(nn.Parameter(torch.tensor(0.7, dtype=DOUBLE)))
    grad = gradient_of(lambda t, y, m: -m.weight * y, holder.weight, gradient, args=(holder,))
    assert grad == pytest.approx(exact(holder.weight), rel=1e-5)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_one_tensor_in_two_roles_adds_up(gradient: str) -> None:
    weight = torch.tensor(0.35, dtype=DOUBLE, requires_grad=True)
    grad = gradient_of(lambda t, y, w: -(w + weight) * y, weight, gradient, args=(weight,))
    assert grad == pytest.approx(2 * exact(torch.tensor(0.7, dtype=DOUBLE)), rel=1e-5)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_that_only_a_later_branch_uses_is_found(place: str, gradient: str) -> None:
    """Invisible in the first evaluation, so that only a look at the code finds it."""
    weight = nn.Parameter(torch.tensor(0.7, dtype=DOUBLE))
    inner = PLACES[place](weight)

    def f(t: Tensor, y: Tensor) -> Tensor:
        return inner(t, y) if t > 0.5 else -y

    y0 = torch.ones(2, dtype=DOUBLE)
    options = {"solver": "rk4", "step_size": 0.05}
    truth = torch.autograd.grad(solve(f, y0, [0.0, 1.0], **options).y1.sum(), weight)[0]
    found = torch.autograd.grad(solve(f, y0, [0.0, 1.0], gradient=gradient, **options).y1.sum(), weight)[0]
    own_steps = {"adjoint": 1e-3, "interpolated": 3e-2, "reversible": 1e-3}
    torch.testing.assert_close(found, truth, rtol=own_steps.get(gradient, 1e-10), atol=0)


@pytest.fixture
def hidden() -> Iterator[Tensor]:
    """A tensor in a place that a look at f's code does not reach."""
    HIDDEN.weight = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)
    yield HIDDEN.weight
    del HIDDEN.weight


@pytest.mark.parametrize("gradient", OWN_BACKWARD)
@pytest.mark.parametrize(("low", "high"), [(0.5, 2.0), (0.4, 0.6)], ids=["at the end", "in the middle"])
@pytest.mark.parametrize("solver", ["rk4", "kvaerno3"])
def test_a_tensor_that_cannot_be_found_is_an_error(
    solver: str, low: float, high: float, gradient: str, hidden: Tensor
) -> None:
    def f(t: Tensor, y: Tensor) -> Tensor:
        return -(HIDDEN.weight if low < t < high else 1.0) * y

    y0 = torch.ones(2, dtype=DOUBLE, requires_grad=True)
    solution = solve(f, y0, [0.0, 1.0], gradient=gradient, solver=solver, step_size=0.05)
    with pytest.raises(GradientError) as caught:
        solution.y1.sum().backward()
    message = str(caught.value)
    assert "f uses 1 tensor(s) that need a gradient (shapes ())" in message
    assert f"gradient={gradient!r} did not find when the solve began" in message
    assert "args=" in message
    assert "gradient='direct'" in message
    direct = solve(f, y0, [0.0, 1.0], solver=solver, step_size=0.05)
    assert torch.autograd.grad(direct.y1.sum(), hidden)[0] != 0


@pytest.mark.parametrize("gradient", OWN_BACKWARD)
def test_a_hidden_tensor_that_is_there_from_the_start_is_found(gradient: str, hidden: Tensor) -> None:
    assert gradient_of(lambda t, y: -HIDDEN.weight * y, hidden, gradient) == pytest.approx(exact(hidden), rel=1e-5)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("solver", ["dopri5", "rk4", "kvaerno3"])
def test_hamiltonian_dynamics(solver: str, gradient: str) -> None:
    """f differentiates a network inside itself; here the network is the energy of an oscillator of stiffness k."""
    stiffness = torch.tensor(2.0, dtype=DOUBLE, requires_grad=True)

    def energy(state: Tensor) -> Tensor:
        q, p = state.unbind(-1)
        return (p**2 / 2 + stiffness * q**2 / 2).sum()

    def f(t: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            if not y.requires_grad:
                y = y.detach().requires_grad_()
            slope = torch.autograd.grad(energy(y), y, create_graph=True)[0]
        return torch.stack([slope[..., 1], -slope[..., 0]], -1)

    y0 = torch.tensor([[1.0, 0.0], [0.5, -0.3]], dtype=DOUBLE, requires_grad=True)
    solution = solve(f, y0, [0.0, 1.0], gradient=gradient, solver=solver, step_size=0.01)
    by_y0, by_k = torch.autograd.grad(solution.y1[:, 0].sum(), [y0, stiffness])
    omega = stiffness.detach().sqrt()
    wave, ramp = omega.cos(), omega.sin() / omega
    torch.testing.assert_close(by_y0, torch.stack([wave, ramp]).expand(2, 2), rtol=1e-5, atol=1e-6)
    by_omega = -1.5 * omega.sin() - 0.3 * (omega.cos() / omega - omega.sin() / omega**2)
    torch.testing.assert_close(by_k, by_omega / (2 * omega), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gradient", OWN_BACKWARD)
def test_a_module_that_is_half_frozen_asks_for_nothing_else(gradient: str) -> None:
    """No false alarm: what needs no gradient is not missed."""
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    net[0].requires_grad_(False)
    solve(lambda t, y: net(y), torch.ones(3, 2, dtype=DOUBLE), [0.0, 1.0], gradient=gradient).y1.sum().backward()
    assert net[0].weight.grad is None
    assert net[2].weight.grad is not None
