"""A float32 solve makes no float64 tensor, on no path: some devices have none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from odekit_solvers.etdrk4 import ETDRK4
from odekit_solvers.heun3 import Heun3
from problems import GRADIENTS, SOLVERS, TIMED, solver_class
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from odekit import Doubling, Event, solve
from odekit.core.protocols import ODESolver


class NoDoubles(TorchDispatchMode):
    """Raises where an operation gives a float64 or complex128 tensor."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in out if isinstance(out, tuple | list) else (out,):
            if isinstance(leaf, Tensor) and leaf.dtype in (torch.float64, torch.complex128):
                raise AssertionError(f"{func} made a {leaf.dtype} of shape {tuple(leaf.shape)}")
        return out


def options_of(name: str) -> dict[str, Any]:
    return {} if solver_class(name).error_order is not None else {"step_size": 0.1}


def field(t: Tensor, y: Tensor) -> Tensor:
    assert t.dtype == y.dtype == torch.float32
    return -y + torch.cos(t)


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver(name: str) -> None:
    if getattr(solver_class(name), "structure", "general") != "general":
        pytest.skip("needs a problem of its own kind")
    y0 = TIMED.exact(0.0).float()
    with NoDoubles():
        sol = solve(field, y0, [0.0, 0.4, 1.0], solver=name, rtol=1e-3, atol=1e-4, dense=True, **options_of(name))
        sol.interpolate([0.3, 0.9])
        sol.derivative(0.3)
    assert sol.ts.dtype == sol.ys.dtype == torch.float32


@pytest.mark.parametrize("gradient", ["direct", "checkpointed"])
@pytest.mark.parametrize("solver", [ETDRK4([-1.0, -2.0]), ETDRK4([[-1.0, 0.5], [0.0, -2.0]]), Doubling(Heun3())])
def test_solvers_with_settings(solver: ODESolver, gradient: str) -> None:
    y0 = TIMED.exact(0.0).float().requires_grad_()
    with NoDoubles():
        sol = solve(field, y0, [0.0, 0.4, 1.0], solver=solver, gradient=gradient, rtol=1e-3, atol=1e-4, dense=True)
        sol.interpolate([0.3, 0.9])
        sol.ys.sum().backward()
    assert sol.ys.dtype == y0.grad.dtype == torch.float32


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_gradients_events_and_every_step(gradient: str) -> None:
    y0 = torch.ones(2, requires_grad=True)
    event = Event(lambda t, y: y[0] - 1.3, terminal=False)
    with NoDoubles():
        sol = solve(field, y0, torch.linspace(0, 3, 4), gradient=gradient, events=event, jump_times=[0.5])
        (sol.ys.sum() + sol.events[0].ts.sum()).backward()
        solve(field, y0, [0.0, 1.0], save="steps").ys.sum().backward()


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_rows(gradient: str) -> None:
    y0 = torch.ones(3, 2, requires_grad=True)
    times = torch.tensor([[0.0, 1.0], [0.0, 2.0], [1.0, 0.0]])
    with NoDoubles():
        solve(field, y0, times, gradient=gradient, batch="rows").ys.sum().backward()
        sol = solve(field, y0, times, gradient=gradient, batch="rows", save="steps", jump_times=[0.5], dense=True)
        sol.y1.sum().backward()
        sol.interpolate(times)
        sol.derivative([0.3, 0.5])
