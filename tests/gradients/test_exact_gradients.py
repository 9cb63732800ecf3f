"""The gradient of the computed numbers: right by finite differences, and the same to rounding by two methods."""

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any

import optree
import pytest
import torch
from problems import ADAPTIVE, DOUBLE, IMPLICIT, SOLVERS, solver_class
from torch import Tensor, nn
from torch.autograd import gradcheck

from odekit import solve
from odekit.core.nonlinear import Newton

EXACT = ["direct", "checkpointed"]
Pair = namedtuple("Pair", ["x", "v"])


def seeded(*shape: int, seed: int = 0, dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def driven(t: Tensor, y: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
    return torch.cos(t) * torch.tanh(y @ weight + shift) - 0.1 * y**3


@pytest.mark.parametrize("gradient", EXACT)
@pytest.mark.parametrize("solver", ["euler", "rk4", "dopri5", *IMPLICIT])
@pytest.mark.parametrize("t", [[0.0, 0.35, 1.0], [1.0, 0.35, 0.0]], ids=["forwards", "backwards"])
def test_gradcheck_of_everything_at_once(solver: str, gradient: str, t: list[float]) -> None:
    kind = solver_class(solver)
    chosen = kind(newton=Newton(fraction=1e-4)) if solver in IMPLICIT else kind()

    def outputs(y0: Tensor, weight: Tensor, shift: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        solution = solve(driven, y0, times, args=(weight, shift), solver=chosen, gradient=gradient, step_size=0.26)
        return solution.ys, solution.y1

    inputs = [0.5 * seeded(2, 2), 0.5 * seeded(2, 2, seed=1), seeded(2, seed=2), torch.tensor(t, dtype=DOUBLE)]
    assert gradcheck(outputs, [x.requires_grad_() for x in inputs], rtol=1e-4, atol=1e-6)


def both(f: Any, y0: Any, t: Any, wrt: list[Tensor], **options: Any) -> list[list[Tensor | None]]:
    """The gradients of a loss over all outputs, by `direct` and by `checkpointed`; the solutions must be equal too."""
    found, solutions = [], []
    for gradient in EXACT:
        solution = solve(f, y0, t, gradient=gradient, **options)
        loss = torch.zeros((), dtype=DOUBLE)
        for i, leaf in enumerate(optree.tree_leaves((solution.ys, solution.y1))):
            weights = seeded(*leaf.shape, seed=i, dtype=leaf.dtype)
            loss = loss + (weights * leaf).abs().square().sum().to(DOUBLE)
        found.append(list(torch.autograd.grad(loss, wrt, allow_unused=True)))
        solutions.append(solution)
    assert all(torch.equal(a, b) for a, b in zip(*(optree.tree_leaves(s.ys) for s in solutions), strict=True))
    assert solutions[0].stats.steps == solutions[1].stats.steps
    return found


def agree(pair: list[list[Tensor | None]], rtol: float = 1e-11) -> None:
    direct, checkpointed = pair
    assert any(grad is not None and bool(grad.abs().max() > 1e-3) for grad in direct)
    for one, other in zip(direct, checkpointed, strict=True):
        assert (one is None) is (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(other, one, rtol=rtol, atol=rtol * float(one.abs().max()))


@pytest.mark.parametrize("t", [[0.0, 0.11, 0.5, 0.5, 1.3], [1.3, 0.7, 0.0]], ids=["forwards", "backwards"])
@pytest.mark.parametrize(
    ("solver", "mode"),
    [*((solver, "fixed") for solver in SOLVERS), *((solver, mode) for solver in ADAPTIVE for mode in ("i", "pid"))],
)
def test_checkpointed_is_direct_to_rounding(solver: str, mode: str, t: list[float]) -> None:
    options = {"step_size": 0.1} if mode == "fixed" else {"control": mode, "rtol": 1e-3, "atol": 1e-4}
    y0 = (0.5 * seeded(3, 2)).requires_grad_()
    weight, shift = (0.7 * seeded(2, 2, seed=1)).requires_grad_(), seeded(2, seed=2).requires_grad_()
    agree(both(driven, y0, t, [y0, weight, shift], solver=solver, args=(weight, shift), **options))


@pytest.mark.parametrize("solver", SOLVERS)
def test_with_respect_to_times_too(solver: str) -> None:
    """`checkpointed` steps as a solve without time gradients does, so that numbers may differ in their last bits."""
    y0 = (0.5 * seeded(3, 2)).requires_grad_()
    weight, shift = 0.7 * seeded(2, 2, seed=1), seeded(2, seed=2).requires_grad_()
    t = torch.tensor([0.0, 0.11, 0.5, 1.3, 1.3], dtype=DOUBLE, requires_grad=True)
    grads = []
    for gradient in EXACT:
        solution = solve(driven, y0, t, solver=solver, args=(weight, shift), gradient=gradient, step_size=0.1)
        loss = (solution.ys * seeded(*solution.ys.shape, seed=3)).sum() + solution.y1.square().sum()
        grads.append(list(torch.autograd.grad(loss, [y0, shift, t])))
    agree(grads, rtol=1e-8 if solver in IMPLICIT else 1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("solver", ["dopri5", "rk4", "kvaerno3"])
def test_other_dtypes(solver: str, dtype: torch.dtype) -> None:
    def f(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
        return rate * y - 0.1 * y**2 * t

    y0 = seeded(3, 2, dtype=dtype).requires_grad_()
    rate = torch.tensor(-0.5 + 1j if dtype.is_complex else -0.5, dtype=dtype, requires_grad=True)
    single = dtype in (torch.float32, torch.complex64)
    pair = both(f, y0, [0.0, 0.4, 1.0], [y0, rate], solver=solver, args=(rate,), step_size=0.1)
    assert all(grad.dtype == dtype for grads in pair for grad in grads if grad is not None)
    agree(pair, rtol=1e-4 if single else 1e-11)


@pytest.mark.parametrize("gradient", EXACT)
def test_gradcheck_of_complex_states(gradient: str) -> None:
    def end(y0: Tensor, rate: Tensor) -> Tensor:
        return solve(
            lambda t, y: rate * y - 0.1 * y**2, y0, [0.0, 1.0], solver="rk4", step_size=0.25, gradient=gradient
        ).y1

    y0 = seeded(3, dtype=torch.complex128).requires_grad_()
    rate = torch.tensor(-0.5 + 1j, dtype=torch.complex128, requires_grad=True)
    assert gradcheck(end, (y0, rate))


@pytest.mark.parametrize("solver", ["dopri5", "heun", "kvaerno3"])
@pytest.mark.parametrize(
    "y0",
    [
        (seeded(4, 2), seeded(4)),
        {"a": seeded(3), "b": (seeded(()[:0] or 2, 2), seeded())},
        Pair(seeded(2, 3), seeded(2, 3)),
        [seeded(2)],
    ],
    ids=["tuple", "deep", "namedtuple", "list"],
)
def test_nested_states(y0: Any, solver: str) -> None:
    y0 = optree.tree_map(lambda leaf: leaf.clone().requires_grad_(), y0)
    rate = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)

    def f(t: Tensor, y: Any) -> Any:
        mean = sum(leaf.mean() for leaf in optree.tree_leaves(y))
        return optree.tree_map(lambda leaf: torch.sin(leaf) * rate - leaf * mean**2, y)

    agree(both(f, y0, [0.0, 0.3, 1.0], [*optree.tree_leaves(y0), rate], solver=solver, rtol=1e-4, atol=1e-4))


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


@pytest.mark.parametrize("solver", ["dopri5", "rk4", "kvaerno3"])
def test_shared_frozen_and_unused_parameters(solver: str) -> None:
    f = Net()
    y0 = seeded(3, 2)
    parameters = [*f.inner.parameters(), *f.unused.parameters()]
    pair = both(f, y0, [0.0, 0.4, 1.0], parameters, solver=solver, step_size=0.1)
    agree(pair)
    assert [grad is None for grad in pair[1]] == [False, False, True, True]


@pytest.mark.parametrize("gradient", EXACT)
def test_no_gradient_flows_where_none_is_wanted(gradient: str) -> None:
    y0 = seeded(3, 2)
    solution = solve(lambda t, y: -y, y0, [0.0, 1.0], gradient=gradient)
    assert not solution.ys.requires_grad
    assert not solution.y1.requires_grad


@pytest.mark.parametrize("gradient", EXACT)
def test_a_state_that_f_captures_as_well(gradient: str) -> None:
    """The initial state in two roles: y' = y0 - 2 y, so that y(1) = y0 (1 + exp(-2))/2."""
    y0 = seeded(3).requires_grad_()
    y1 = solve(lambda t, y: y0 - 2 * y, y0, [0.0, 1.0], gradient=gradient, rtol=1e-10, atol=1e-12).y1
    (grad,) = torch.autograd.grad(y1.sum(), y0)
    torch.testing.assert_close(grad, torch.full((3,), 0.5 + 0.5 * math.exp(-2), dtype=DOUBLE))
