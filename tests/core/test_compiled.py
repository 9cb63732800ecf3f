"""Compiled steps give the numbers, the gradients and the counts of those that are not compiled."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import odekit
from odekit.core.compiled import CompiledStep
from odekit.errors import CompileWarning, InputError
from odekit.solving import solver_named

DOUBLE = torch.float64


class Field(nn.Module):
    """A network of time and state."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2)).double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = 3 * self.net(y) * torch.cos(t)
        return out


def traced(name: str, backend: str = "aot_eager") -> CompiledStep:
    return CompiledStep(solver_named(name), backend)


def solved(f: Any, solver: Any, rows: int = 5, t: Any = (0.0, 0.3, 1.0), **options: Any) -> Any:
    torch.manual_seed(1)
    y0 = torch.randn(rows, 2, dtype=DOUBLE, requires_grad=True)
    found = odekit.solve(f, y0, t, solver=solver, rtol=1e-6, atol=1e-6, **options)
    return found, torch.autograd.grad(found.ys.square().sum(), [y0, *f.parameters()])


SPANS = {
    "shared": {},
    "rows": {"batch": "rows", "t": torch.tensor([[0.0, 0.3, 1.0 + 0.1 * k] for k in range(5)], dtype=DOUBLE)},
}


@pytest.fixture(scope="module")
def network() -> Field:
    """One for all tests, so that what is compiled for one serves the others."""
    return Field()


@pytest.mark.parametrize("gradient", ["direct", "checkpointed", "adjoint"])
@pytest.mark.parametrize("batch", SPANS)
def test_numbers_and_gradients_are_those_of_the_solver(network: Field, gradient: str, batch: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours, ours_grad = solved(network, traced("dopri5"), gradient=gradient, **SPANS[batch])
    theirs, theirs_grad = solved(network, "dopri5", gradient=gradient, **SPANS[batch])
    torch.testing.assert_close(ours.ys, theirs.ys, rtol=1e-12, atol=1e-12)
    for a, b in zip(ours_grad, theirs_grad, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)
    assert torch.equal(torch.as_tensor(ours.stats.steps), torch.as_tensor(theirs.stats.steps))


@pytest.mark.parametrize("gradient", ["reversible", "symplectic", "interpolated"])
def test_methods_that_look_into_steps_have_them_as_they_are(network: Field, gradient: str) -> None:
    ours, ours_grad = solved(network, traced("dopri5"), gradient=gradient)
    theirs, theirs_grad = solved(network, "dopri5", gradient=gradient)
    torch.testing.assert_close(ours.ys, theirs.ys, rtol=1e-12, atol=1e-12)
    for a, b in zip(ours_grad, theirs_grad, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def graphs(network: Field, **options: Any) -> int:
    """How many graphs the compiler makes during a solve without gradients."""
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    with torch.no_grad():
        odekit.solve(network, torch.ones(options.pop("rows", 5), 2, dtype=DOUBLE), **{"t": [0.0, 1.0], **options})
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"] - before)


def test_nothing_is_compiled_again_for_other_times_tolerances_or_numbers_of_rows() -> None:
    f = Field()
    assert graphs(f, solver=traced("tsit5"), rtol=1e-6) > 0
    assert graphs(f, solver=traced("tsit5"), rtol=1e-4, atol=1e-5) == 0
    assert graphs(f, solver=traced("tsit5"), t=[2.0, -1.0]) == 0
    assert graphs(f, solver=traced("tsit5"), rows=9) == 0
    assert graphs(f, solver=traced("tsit5"), dt_max=0.05) == 0


def test_calls_of_f_are_counted() -> None:
    f = Field()
    y0 = torch.ones(3, 2, dtype=DOUBLE)
    with torch.no_grad():
        ours = odekit.solve(f, y0, [0.0, 1.0], solver=traced("rk4"), step_size=0.1)
        theirs = odekit.solve(f, y0, [0.0, 1.0], solver="rk4", step_size=0.1)
    assert ours.stats.nfe == theirs.stats.nfe == 40


def test_a_time_at_an_end_is_not_rounded_beyond_it() -> None:
    seen = []

    def f(t: Tensor, y: Tensor) -> Tensor:
        return y * torch.sqrt(1 - t)  # NaN beyond 1

    seen.append(odekit.solve(f, torch.ones(2), [0.0, 1.0], solver=traced("rk4"), step_size=0.1).y1)
    assert torch.isfinite(seen[0]).all()


def test_arguments_and_what_f_closes_over_may_change_from_solve_to_solve() -> None:
    def with_rate(rate: Tensor) -> Any:
        return lambda t, y, scale: rate * scale * y

    for rate, scale in ((1.0, 2.0), (-0.5, 1.0), (0.3, 3.0)):
        f = with_rate(torch.tensor(rate, dtype=DOUBLE))
        found = odekit.solve(
            f, torch.ones(3, dtype=DOUBLE), [0.0, 1.0], solver=traced("dopri5"), rtol=1e-9, atol=1e-9,
            args=(torch.tensor(scale, dtype=DOUBLE),),
        )  # fmt: skip
        torch.testing.assert_close(found.y1, torch.full((3,), rate * scale, dtype=DOUBLE).exp(), rtol=1e-7, atol=0)


def test_what_cannot_be_compiled_is_solved_all_the_same_and_said_once() -> None:
    def f(t: Tensor, y: Tensor) -> Tensor:
        return -y if float(y.detach().sum()) > 0 else y

    y0 = torch.ones(2, dtype=DOUBLE)
    with pytest.warns(CompileWarning, match="could not be compiled"):
        found = odekit.solve(f, y0, [0.0, 1.0], solver=traced("rk4"), step_size=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        odekit.solve(f, y0, [0.0, 1.0], solver=traced("rk4"), step_size=0.1)
    torch.testing.assert_close(found.y1, odekit.solve(f, y0, [0.0, 1.0], solver="rk4", step_size=0.1).y1)


def test_errors_of_f_are_its_own() -> None:
    def f(t: Tensor, y: Tensor) -> Tensor:
        raise RuntimeError("no such thing")

    with pytest.raises(RuntimeError, match="no such thing"):
        odekit.solve(f, torch.ones(2), [0.0, 1.0], solver=traced("rk4"), step_size=0.1)


def test_the_option_says_what_it_takes() -> None:
    with pytest.raises(InputError, match="compile='loop'"):
        odekit.solve(lambda t, y: -y, torch.ones(2), [0.0, 1.0], compile="loop")


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["direct", "checkpointed", "adjoint"])
def test_the_same_by_machine_code(gradient: str) -> None:
    f = Field()
    ours, ours_grad = solved(f, "dopri5", gradient=gradient, compile=True)
    theirs, theirs_grad = solved(f, "dopri5", gradient=gradient)
    torch.testing.assert_close(ours.ys, theirs.ys, rtol=1e-11, atol=1e-11)
    for a, b in zip(ours_grad, theirs_grad, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
