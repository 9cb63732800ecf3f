"""A loop within a graph takes the steps that the host's loops take, and gives what they give."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from problems import TimedNetwork
from torch import Tensor

import odekit
from odekit.core.compiled import CompiledStep
from odekit.core.compiled_solve import CompiledSolve
from odekit.core.graph_run import Run
from odekit.core.solution import Status
from odekit.errors import CompileWarning
from odekit.solving import solver_named

DOUBLE = torch.float64


@pytest.fixture(scope="module")
def network() -> TimedNetwork:
    """One for all tests, so that what is compiled for one serves the others."""
    return TimedNetwork()


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """The solves that went by a graph."""
    gone: list[Run] = []
    following = Run._following

    def noted(self: Run, found: Any) -> Iterator[Any]:
        gone.append(self)
        return following(self, found)

    monkeypatch.setattr(Run, "_following", noted)
    return gone


def looping(name: str = "dopri5", backend: str = "eager") -> CompiledSolve:
    return CompiledSolve(solver_named(name), backend)


def state(rows: int = 5, dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.randn(rows, 2, dtype=dtype, generator=torch.Generator().manual_seed(1))


MANY = [0.0, 0.1, 0.11, 0.12, 0.13, 0.14, 0.15, 0.16, 0.5, 1.5]
OWN = torch.tensor([[0.0, 0.3, 1.0 + 0.1 * k, 1.0 + 0.1 * k] for k in range(5)], dtype=DOUBLE)
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "one output": ([0.0, 1.0], {"dense": False}),
    "with a record": ([1.0, 0.0], {"dense": True}),
    "more outputs in a step than are taken at once": (MANY, {}),
    "rows": ([1.0, 0.0], {"batch": "rows"}),
    "rows with times of their own": (OWN, {"batch": "rows"}),
}


SLOW = [pytest.param(case, marks=[] if case in ("with a record", "rows") else pytest.mark.slow) for case in CASES]


@pytest.mark.parametrize("case", SLOW)
@pytest.mark.parametrize("name", ["dopri5", pytest.param("heun", marks=pytest.mark.slow)])
def test_steps_and_numbers_are_those_of_the_host(network: TimedNetwork, runs: list[Run], case: str, name: str) -> None:
    t, options = CASES[case]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        given = {"rtol": 1e-6, "atol": 1e-6, **options}
        ours = odekit.solve(network, state(), t, solver=looping(name), **given)
        theirs = odekit.solve(network, state(), t, solver=name, **given)
    assert len(runs) == 1
    torch.testing.assert_close(ours.ys, theirs.ys, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.y1, theirs.y1, rtol=1e-12, atol=1e-12)
    for count in ("steps", "accepted", "rejected"):
        assert torch.equal(*(torch.as_tensor(getattr(x.stats, count)) for x in (ours, theirs)))
    if case == "with a record":
        torch.testing.assert_close(ours.interpolate([0.3, 0.31]), theirs.interpolate([0.3, 0.31]))


@pytest.mark.slow
def test_calls_of_f_are_counted(network: TimedNetwork) -> None:
    with torch.no_grad():
        found = [odekit.solve(network, state(), [0.0, 2.0], solver=s, dense=False) for s in (looping(), "dopri5")]
        found.append(odekit.solve(network, state(), [0.0, 2.0], solver=looping(), dense=False))
    assert found[-1].stats.nfe == found[1].stats.nfe


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["checkpointed", "adjoint", "interpolated"])
def test_gradients_of_what_is_solved_so(network: TimedNetwork, runs: list[Run], gradient: str) -> None:
    def gradients(solver: Any) -> list[Tensor]:
        y0 = state().requires_grad_()
        found = odekit.solve(network, y0, [0.0, 0.4, 1.0], solver=solver, gradient=gradient, rtol=1e-6, atol=1e-6)
        return list(torch.autograd.grad(found.ys.square().sum(), [y0, *network.parameters()]))

    for ours, theirs in zip(gradients(looping()), gradients("dopri5"), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
    assert runs


@pytest.mark.slow
def test_where_gradients_flow_through_the_steps_they_are_taken_one_by_one(
    network: TimedNetwork, runs: list[Run]
) -> None:
    y0 = state().requires_grad_()
    odekit.solve(network, y0, [0.0, 0.1], solver=looping(backend="aot_eager")).y1.sum().backward()
    assert y0.grad is not None
    assert bool(y0.grad.any())
    assert not runs


def blows_up(t: Tensor, y: Tensor) -> Tensor:
    return y * y


def turns_to_nan(t: Tensor, y: Tensor) -> Tensor:
    return torch.sqrt(0.5 - t) * torch.ones_like(y)


@pytest.mark.parametrize(
    ("f", "batch"),
    [
        (blows_up, "rows"),
        pytest.param(blows_up, "shared", marks=pytest.mark.slow),
        pytest.param(turns_to_nan, "rows", marks=pytest.mark.slow),
        pytest.param(turns_to_nan, "shared", marks=pytest.mark.slow),
    ],
)
def test_solves_that_fail_do_so_as_on_the_host(runs: list[Run], f: Any, batch: str) -> None:
    y0 = torch.ones(2, 1, dtype=DOUBLE)
    options: dict[str, Any] = {"throw": False, "batch": batch, "dense": False}
    ours = odekit.solve(f, y0, [0.0, 0.2, 2.0], solver=looping(), **options)
    theirs = odekit.solve(f, y0, [0.0, 0.2, 2.0], solver="dopri5", **options)
    assert len(runs) == 1
    assert list(ours.status) == list(theirs.status) if batch == "rows" else ours.status is theirs.status
    torch.testing.assert_close(torch.as_tensor(ours.t1), torch.as_tensor(theirs.t1))
    torch.testing.assert_close(ours.ys, theirs.ys, equal_nan=True)


@pytest.mark.slow
def test_the_number_of_steps_is_limited(network: TimedNetwork) -> None:
    with torch.no_grad():
        found = odekit.solve(network, state(), [0.0, 9.0], solver=looping(), max_steps=3, throw=False, dense=False)
    assert (found.status, found.stats.steps) == (Status.MAX_STEPS, 3)


@pytest.mark.slow
def test_what_is_done_between_steps_keeps_them_on_the_host(network: TimedNetwork, runs: list[Run]) -> None:
    solver = looping(backend="aot_eager")
    with torch.no_grad():
        seen: list[float] = []
        odekit.solve(network, state(), [0.0, 0.1], solver=solver, callback=lambda t, y: seen.append(t))
        assert seen
        odekit.solve(network, state(), [0.0, 0.1], solver=solver, save="steps")
        odekit.solve(network, state(), [0.0, 0.1], solver=solver, step_times=[0.05])
        odekit.solve(network, state(), [0.0, 0.1], solver=solver, events=lambda t, y: t - 0.05)
    assert not runs


def test_what_cannot_be_compiled_is_solved_all_the_same_and_said_once() -> None:
    def decides(t: Tensor, y: Tensor) -> Tensor:
        return -y if float(y.sum()) > 0 else y

    y0 = torch.ones(1, 2, dtype=DOUBLE)
    with pytest.warns(CompileWarning, match="could not be compiled"):
        found = odekit.solve(decides, y0, [0.0, 1.0], solver=looping(), dense=False)
    torch.testing.assert_close(found.y1, odekit.solve(decides, y0, [0.0, 1.0]).y1)


def spirals(t: Tensor, y: Any) -> dict[str, Tensor]:
    return {"z": (1j - 0.1) * y["z"], "x": -y["x"] * t}


def test_nested_and_complex_states(runs: list[Run]) -> None:
    y0 = {"z": torch.ones(3, dtype=torch.complex128), "x": torch.ones(3, 2, dtype=torch.complex128)}
    ours = odekit.solve(spirals, y0, [0.0, 2.0], solver=looping(), dense=False)
    theirs = odekit.solve(spirals, y0, [0.0, 2.0])
    assert len(runs) == 1
    stepped = odekit.solve(spirals, y0, [0.0, 2.0], solver=CompiledStep(solver_named("dopri5"), "eager"))
    torch.testing.assert_close(stepped.y1["z"], theirs.y1["z"])
    torch.testing.assert_close(ours.y1["z"], theirs.y1["z"])
    torch.testing.assert_close(ours.y1["x"], theirs.y1["x"])


def reacts(t: Tensor, y: Tensor) -> Tensor:
    a, b, c = y[..., 0], y[..., 1], y[..., 2]
    back, on = 1e4 * b * c - 0.04 * a, 3e7 * b * b
    return torch.stack([back, -back - on, on], -1)


@pytest.mark.slow
@pytest.mark.parametrize("batch", ["shared", "rows"])
def test_stiff_systems(runs: list[Run], batch: str) -> None:
    """Robertson's reaction by a Rosenbrock method, whose Jacobians are in the loop."""
    y0 = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.0, 0.1]], dtype=DOUBLE)
    y0 = y0 if batch == "rows" else y0[0]
    ours = odekit.solve(reacts, y0, [0.0, 40.0], solver=looping("rodas5p"), batch=batch, rtol=1e-6, dense=False)
    theirs = odekit.solve(reacts, y0, [0.0, 40.0], solver="rodas5p", batch=batch, rtol=1e-6, dense=False)
    assert len(runs) == 1
    torch.testing.assert_close(ours.y1, theirs.y1, rtol=1e-9, atol=1e-12)
    assert torch.equal(torch.as_tensor(ours.stats.steps), torch.as_tensor(theirs.stats.steps))
    if batch == "shared":
        kept = odekit.solve(reacts, y0, [0.0, 40.0], solver=looping("rodas5p"), rtol=1e-6, dense=True)
        torch.testing.assert_close(kept.interpolate(3.7), theirs_kept(y0).interpolate(3.7), rtol=1e-9, atol=1e-12)


def theirs_kept(y0: Tensor) -> Any:
    return odekit.solve(reacts, y0, [0.0, 40.0], solver="rodas5p", rtol=1e-6, dense=True)


def grows(t: Tensor, y: Tensor) -> Tensor:
    return y * torch.cos(t)


@pytest.mark.parametrize("name", ["rk4", pytest.param("dopri5", marks=pytest.mark.slow)])
def test_equal_steps(name: str) -> None:
    y0 = state()
    for t in ([0.0, 1.0], [1.0, -0.5]):
        ours = odekit.solve(grows, y0, t, solver=looping(name), step_size=0.01, dense=False)
        theirs = odekit.solve(grows, y0, t, solver=name, step_size=0.01, dense=False)
        torch.testing.assert_close(ours.y1, theirs.y1, rtol=1e-13, atol=1e-13)
        assert (ours.stats.steps, ours.status) == (theirs.stats.steps, Status.SUCCESS)
    assert theirs.stats.nfe <= ours.stats.nfe <= theirs.stats.nfe + 1  # to see whether gradients flow


def test_a_loop_that_cannot_be_made_again_for_another_shape_is_no_loss(
    network: TimedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps are taken one by one where the compiler gives up on a later solve."""
    solver = looping(backend="aot_eager")
    with torch.no_grad():
        odekit.solve(network, state(), [0.0, 0.1], solver=solver)
        monkeypatch.setattr(Run, "_go", lambda self, limit: None)
        found = odekit.solve(network, state(), [0.0, 0.1], solver=solver, dense=False)
        torch.testing.assert_close(found.y1, odekit.solve(network, state(), [0.0, 0.1]).y1)


@pytest.mark.slow
@pytest.mark.parametrize("batch", ["shared", "rows"])
def test_the_same_by_machine_code(network: TimedNetwork, runs: list[Run], batch: str) -> None:
    for t in ([0.0, 1.0], MANY):
        with torch.no_grad():
            ours = odekit.solve(network, state(), t, compile="solve", batch=batch, rtol=1e-6, atol=1e-6)
            theirs = odekit.solve(network, state(), t, batch=batch, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(ours.ys, theirs.ys, rtol=1e-10, atol=1e-10)
        assert torch.equal(torch.as_tensor(ours.stats.steps), torch.as_tensor(theirs.stats.steps))
    assert len(runs) == 2
