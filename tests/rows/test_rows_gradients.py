"""Gradients of solves by row: exact, equal between the methods, and not spoilt by a row that fails."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import odekit
from tests.problems import DOUBLE

B = 4


def _net() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2)).to(DOUBLE)


def _gradients(gradient: str, solver: str, times: bool, **options: Any) -> list[Tensor]:
    net = _net()
    y0 = torch.linspace(-1, 1, 2 * B, dtype=DOUBLE).reshape(B, 2).requires_grad_()
    mu = torch.logspace(0, 0.7, B, dtype=DOUBLE).requires_grad_()
    t = torch.tensor([[0, 0.3, 1], [1, 0, -0.5], [0.5, 0.5, 0.5], [0, 0.4, 0.4]], dtype=DOUBLE, requires_grad=times)

    def f(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
        return net(torch.cat([y, t.expand(len(y), 1)], 1)) * mu[:, None]

    options = {"rtol": 1e-5, "atol": 1e-7, **options}
    found = odekit.solve(f, y0, t, args=(mu,), batch="rows", gradient=gradient, solver=solver, **options)
    weights = torch.linspace(0.5, 1.5, found.ys.numel(), dtype=DOUBLE).reshape(found.ys.shape)
    loss = (found.ys * weights).sum() + (found.y1**2).sum()
    return list(torch.autograd.grad(loss, [y0, mu, *([t] if times else []), *net.parameters()]))


@pytest.mark.parametrize("times", [False, True])
@pytest.mark.parametrize("solver", ["dopri5", "heun", "kvaerno3"])
def test_checkpointed_equals_direct(solver: str, times: bool) -> None:
    options = {"rtol": 1e-3, "atol": 1e-4}
    direct = _gradients("direct", solver, times, **options)
    for found, expected in zip(_gradients("checkpointed", solver, times, **options), direct, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("times", [False, True])
def test_adjoint_comes_close_to_direct(times: bool) -> None:
    direct = _gradients("direct", "dopri5", times, rtol=1e-8, atol=1e-9)
    for found, expected in zip(_gradients("adjoint", "dopri5", times, rtol=1e-8, atol=1e-9), direct, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_fixed_steps_have_exact_gradients() -> None:
    direct = _gradients("direct", "rk4", True, rtol=None, atol=None, step_size=0.1)
    replayed = _gradients("checkpointed", "rk4", True, rtol=None, atol=None, step_size=0.1)
    for found, expected in zip(replayed, direct, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_gradients_are_those_of_finite_differences() -> None:
    def solved(y0: Tensor, mu: Tensor, t: Tensor) -> Tensor:
        f = lambda t, y, mu: torch.sin(mu[:, None] * y) + t  # noqa: E731
        return odekit.solve(f, y0, t, args=(mu,), batch="rows", solver="rk4", step_size=0.11).ys

    y0 = torch.tensor([[0.1, 0.2], [0.3, -0.4]], dtype=DOUBLE, requires_grad=True)
    mu = torch.tensor([1.0, 2.0], dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y0, mu: solved(y0, mu, torch.tensor([[0, 0.5], [0.3, 0]])), (y0, mu))


@pytest.mark.parametrize("gradient", ["direct", "checkpointed", "adjoint"])
def test_times_of_every_row_have_their_gradient(gradient: str) -> None:
    t = torch.tensor([[0.0, 0.5, 1.0], [0.2, 0.1, -0.3]], dtype=DOUBLE, requires_grad=True)
    y0 = torch.ones(2, 1, dtype=DOUBLE)
    found = odekit.solve(lambda t, y: -t * y, y0, t, batch="rows", gradient=gradient)
    expected = torch.exp((t[:, :1] ** 2 - t**2) / 2)
    weights = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.5, 2.0]], dtype=DOUBLE)
    (got,) = torch.autograd.grad((found.ys[..., 0] * weights).sum(), t)
    (want,) = torch.autograd.grad((expected * weights).sum(), t)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gradient", ["direct", "checkpointed", "adjoint"])
@pytest.mark.parametrize("bad", [4.0, math.nan, -1e3])
def test_a_failed_row_does_not_spoil_gradients(gradient: str, bad: float) -> None:
    """The square root makes NaN of negative states, whose derivatives times zero are NaN too."""

    def run(first: Tensor) -> list[Tensor]:
        y0 = first.reshape(-1, 1).clone().requires_grad_()
        scale = torch.tensor(1.0, dtype=DOUBLE, requires_grad=True)
        f = lambda t, y, scale: scale * y**2 * torch.sqrt(y) / torch.sqrt(y)  # noqa: E731
        options = {"rtol": 1e-8, "atol": 1e-9}
        found = odekit.solve(f, y0, [0.0, 1.0], args=(scale,), batch="rows", gradient=gradient, throw=False, **options)
        good = found.ys[-1, :2].sum()
        return list(torch.autograd.grad(good, [y0, scale]))

    alone = run(torch.tensor([0.5, 0.3], dtype=DOUBLE))
    among = run(torch.tensor([0.5, 0.3, bad], dtype=DOUBLE))
    torch.testing.assert_close(among[0][:2], alone[0], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(among[1], alone[1], rtol=1e-6, atol=1e-7)
