"""Compiled Rosenbrock steps, Jacobian and elimination in one graph, are those that are not compiled."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from problems import DOUBLE
from torch import Tensor, nn

import odekit
from odekit.core.compiled import CompiledStep
from odekit.errors import CompileWarning
from odekit.solving import solver_named


class Oscillator(nn.Module):
    """Van der Pol's, pushed, as a user writes it; parts of the state are indexed."""

    def __init__(self) -> None:
        super().__init__()
        self.mu = nn.Parameter(torch.tensor(20.0, dtype=DOUBLE))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        u, v = y[..., 0], y[..., 1]
        return torch.stack([v, self.mu * (1 - u**2) * v - u + torch.cos(t.reshape(t.shape[:1]))], -1)


class Network(nn.Module):
    """A network of time and state, of more numbers than are eliminated by hand."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 5)).double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = 3 * self.net(y) * torch.cos(t)
        return out


FIELDS = {"indexed": (Oscillator, 2), "network": (Network, 5)}
SPANS: dict[str, Any] = {
    "shared": {"t": [0.0, 0.3, 1.0]},
    "rows": {"batch": "rows", "t": torch.tensor([[0.0, 0.3, 1.0 + 0.1 * k] for k in range(5)], dtype=DOUBLE)},
}


def start(size: int, rows: int = 5) -> Tensor:
    return torch.randn(rows, size, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))


def traced(name: str, backend: str = "eager") -> CompiledStep:
    return CompiledStep(solver_named(name), backend)


def compared(field: str, name: str, batch: str, backend: str, **options: Any) -> tuple[Any, Any]:
    """A solve with compiled steps, without a warning, and one without."""
    made, size = FIELDS[field]
    f, y0 = made(), start(size)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        ours = odekit.solve(f, y0, solver=traced(name, backend), rtol=1e-6, atol=1e-6, **SPANS[batch], **options)
        theirs = odekit.solve(f, y0, solver=name, rtol=1e-6, atol=1e-6, **SPANS[batch], **options)
    return ours, theirs


@pytest.mark.slow
@pytest.mark.parametrize(("field", "batch"), [("network", "shared"), ("network", "rows"), ("indexed", "shared")])
def test_numbers_are_those_of_the_solver(field: str, batch: str) -> None:
    ours, theirs = compared(field, "rosenbrock23", batch, "eager")
    torch.testing.assert_close(ours.ys, theirs.ys, rtol=1e-10, atol=1e-11)
    assert torch.equal(torch.as_tensor(ours.stats.steps), torch.as_tensor(theirs.stats.steps))


def test_rows_may_leave_a_graph_that_counts_its_calls() -> None:
    f, y0 = Oscillator(), start(2)
    t = torch.tensor([[0.0, end] for end in (0.1, 0.2, 0.3, 0.4, 0.4)], dtype=DOUBLE)
    options: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4, "batch": "rows"}
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        odekit.solve(f, y0, t, solver=traced("rosenbrock23"), **options)
        ours = odekit.solve(f, y0, t, solver=traced("rosenbrock23"), **options)
        theirs = odekit.solve(f, y0, t, solver="rosenbrock23", **options)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before <= 2  # one is for a single row
    torch.testing.assert_close(ours.ys, theirs.ys, rtol=1e-10, atol=1e-11)
    assert torch.equal(ours.stats.accepted, theirs.stats.accepted)
    for count in ("nfe", "jacobians"):
        assert int(getattr(ours.stats, count)) == int(getattr(theirs.stats, count))


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["direct", "checkpointed"])
@pytest.mark.parametrize("batch", SPANS)
def test_gradients_are_those_of_the_solver(batch: str, gradient: str) -> None:
    f, found = Oscillator(), []
    for solver in (traced("rodas4", "aot_eager"), "rodas4"):
        y0 = start(2).requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ys = odekit.solve(f, y0, solver=solver, gradient=gradient, rtol=1e-4, atol=1e-4, **SPANS[batch]).ys
        found.append((ys.detach(), *torch.autograd.grad(ys.square().sum(), [y0, f.mu])))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rosenbrock23", "rodas5p"])
def test_the_same_by_machine_code(name: str) -> None:
    ours, theirs = compared("indexed", name, "rows", "inductor")
    torch.testing.assert_close(ours.ys, theirs.ys, rtol=1e-9, atol=1e-10)


@pytest.mark.slow
def test_steps_of_the_adjoint_system_are_taken_without_a_graph() -> None:
    f, y0 = Oscillator(), start(2).requires_grad_()
    grads = []
    for solver in (traced("rosenbrock23"), "rosenbrock23"):
        context = pytest.warns(CompileWarning) if isinstance(solver, CompiledStep) else warnings.catch_warnings()
        with context:
            y1 = odekit.solve(f, y0, [0.0, 0.1], solver=solver, gradient="adjoint", rtol=1e-4, atol=1e-4).y1
            grads.append(torch.autograd.grad(y1.square().sum(), y0)[0])
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-8, atol=1e-9)
