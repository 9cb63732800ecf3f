"""Gradients from steps taken back: those of `direct` on the same steps, without states, or with a warning."""

from __future__ import annotations

import gc
import math
import weakref
from typing import Any

import optree
import pytest
import torch
from odekit_solvers.alf import AsynchronousLeapfrog
from odekit_solvers.bosh3 import Bosh3
from odekit_solvers.dopri5 import Dopri5
from odekit_solvers.euler import Euler
from odekit_solvers.reversible_heun import ReversibleHeun
from odekit_solvers.rk4 import RK4
from odekit_solvers.vern7 import Vern7
from problems import DOUBLE, IRREVERSIBLE, close, solver_class
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from odekit import Event, NeuralODE, Reversible, solve
from odekit.core.protocols import ODESolver
from odekit.errors import InputError, OptionError, ReversalDriftWarning
from odekit.gradients import Reversal

SOLVERS: dict[str, ODESolver] = {
    "alf": AsynchronousLeapfrog(),
    "reversible heun": ReversibleHeun(),
    "euler": Reversible(Euler),
    "rk4": Reversible(RK4, coupling=1),
    "dopri5": Reversible(Dopri5),
    "bosh3": Reversible(Bosh3, coupling=0.9),
    "vern7": Reversible(Vern7),
}
HOW: dict[str, dict[str, Any]] = {
    "fixed": {"step_size": 0.1},
    "adaptive": {"rtol": 1e-3, "atol": 1e-4},
    "pid": {"rtol": 1e-3, "atol": 1e-4, "control": "pid"},
}
CASES = [
    pytest.param(name, how, marks=[pytest.mark.slow] if how == "pid" else [])
    for name in SOLVERS
    for how in HOW
    if how == "fixed" or SOLVERS[name].error_order is not None
]


def seeded(*shape: int, seed: int = 0, dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def driven(t: Tensor, y: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
    return torch.cos(t) * torch.tanh(y @ weight + shift) - 0.1 * y**3


def gradients(gradient: str, f: Any, y0: Any, t: Any, wrt: list[Tensor], **options: Any) -> list[Tensor]:
    """Of a loss over all outputs and the last state."""
    solution = solve(f, y0, t, gradient=gradient, **options)
    loss = torch.zeros((), dtype=DOUBLE)
    for i, leaf in enumerate(optree.tree_leaves((solution.ys, solution.y1))):
        weights = seeded(*leaf.shape, seed=i, dtype=leaf.dtype)
        loss = loss + (weights * leaf).abs().square().sum().to(DOUBLE)
    return list(torch.autograd.grad(loss, wrt))


def agree(f: Any, y0: Any, t: Any, wrt: list[Tensor], rtol: float = 1e-10, **options: Any) -> None:
    """`reversible` gives what `direct` does."""
    direct = gradients("direct", f, y0, t, wrt, **options)
    reversible = gradients("reversible", f, y0, t, wrt, **options)
    assert any(bool(grad.abs().max() > 1e-3) for grad in direct)
    for one, other in zip(direct, reversible, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(other, one, rtol=rtol, atol=rtol * float(one.abs().max()))


@pytest.mark.parametrize("t", [[0.0, 0.11, 0.5, 0.5, 1.3], [1.3, 0.7, 0.0]], ids=["forwards", "backwards"])
@pytest.mark.parametrize(("name", "how"), CASES)
def test_it_is_direct_to_rounding(name: str, how: str, t: list[float]) -> None:
    y0 = (0.5 * seeded(3, 2)).requires_grad_()
    weight, shift = (0.7 * seeded(2, 2, seed=1)).requires_grad_(), seeded(2, seed=2).requires_grad_()
    agree(driven, y0, t, [y0, weight, shift], solver=SOLVERS[name], args=(weight, shift), **HOW[how])


@pytest.mark.parametrize("name", ["alf", "reversible heun", "dopri5"])
def test_with_respect_to_times_too(name: str) -> None:
    y0 = (0.5 * seeded(3, 2)).requires_grad_()
    weight, shift = 0.7 * seeded(2, 2, seed=1), seeded(2, seed=2).requires_grad_()
    t = torch.tensor([0.0, 0.11, 0.52, 1.3, 1.3], dtype=DOUBLE, requires_grad=True)
    agree(driven, y0, t, [y0, shift, t], solver=SOLVERS[name], args=(weight, shift), step_size=0.1)


@pytest.mark.parametrize("name", ["alf", "reversible heun", "dopri5"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128], ids=str)
def test_other_dtypes(name: str, dtype: torch.dtype) -> None:
    def f(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
        return rate * y - 0.1 * y**2 * t

    y0 = seeded(3, 2, dtype=dtype).requires_grad_()
    rate = torch.tensor(-0.5 + 1j if dtype.is_complex else -0.5, dtype=dtype, requires_grad=True)
    rtol = 1e-4 if dtype in (torch.float32, torch.complex64) else 1e-10
    agree(f, y0, [0.0, 0.4, 1.0], [y0, rate], rtol, solver=SOLVERS[name], args=(rate,), step_size=0.1)


def test_nested_states() -> None:
    y0 = {"a": seeded(3).requires_grad_(), "b": (seeded(2, 2).requires_grad_(), seeded().requires_grad_())}
    rate = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)

    def f(t: Tensor, y: Any) -> Any:
        mean = sum(leaf.mean() for leaf in optree.tree_leaves(y))
        return optree.tree_map(lambda leaf: torch.sin(leaf) * rate - leaf * mean**2, y)

    wrt = [*optree.tree_leaves(y0), rate]
    agree(f, y0, [0.0, 0.3, 1.0], wrt, solver=SOLVERS["dopri5"], rtol=1e-4, atol=1e-4)  # type: ignore[misc]


@pytest.mark.parametrize("gradient", ["reversible", "direct"])
@pytest.mark.parametrize("name", ["alf", "reversible heun", "bosh3"])
def test_gradcheck_and_gradgradcheck(name: str, gradient: str) -> None:
    def outputs(y0: Tensor, shift: Tensor, times: Tensor) -> Tensor:
        weight = torch.tensor([[0.3, -0.8], [0.5, 0.2]], dtype=DOUBLE)
        return solve(
            driven, y0, times, args=(weight, shift), solver=SOLVERS[name], gradient=gradient, step_size=0.35
        ).ys  # fmt: skip

    times = torch.tensor([0.0, 0.2, 1.0], dtype=DOUBLE)
    inputs = [x.requires_grad_() for x in (0.5 * seeded(1, 2), seeded(2, seed=2), times)]
    assert gradcheck(outputs, inputs)
    assert gradgradcheck(outputs, inputs)


# Explicit methods are made reversible


@pytest.mark.parametrize("how", ["fixed", "adaptive"])
@pytest.mark.parametrize("method", ["rk4", "dopri5", "tsit5"])
def test_an_explicit_method_is_made_reversible(method: str, how: str) -> None:
    if method == "rk4" and how == "adaptive":
        return
    y0 = (0.5 * seeded(3, 2)).requires_grad_()
    options = {"args": (0.7 * seeded(2, 2, seed=1), seeded(2, seed=2)), **HOW[how]}
    found = solve(driven, y0, [0.0, 0.4, 1.3], solver=method, gradient=Reversal(coupling=0.98), **options)
    wrapped = Reversible(solver_class(method), coupling=0.98)
    expected = solve(driven, y0, [0.0, 0.4, 1.3], solver=wrapped, **options)
    assert torch.equal(found.ys, expected.ys)
    assert found.stats.steps == expected.stats.steps
    grads = [torch.autograd.grad(solution.ys.square().sum(), y0)[0] for solution in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-11, atol=1e-11)
    with torch.no_grad():
        evaluated = solve(driven, y0, [0.0, 0.4, 1.3], solver=method, gradient=Reversal(coupling=0.98), **options)
    assert torch.equal(evaluated.ys, expected.ys)


@pytest.mark.parametrize("batch", ["shared", "rows"])
@pytest.mark.parametrize("name", ["kvaerno3", "bdf", "adams_bashforth", "rodas5p", "leapfrog", "auto_tsit5"])
def test_solvers_that_cannot_go_back_are_refused(name: str, batch: str) -> None:
    assert name in IRREVERSIBLE
    y0 = torch.ones(2, 2, dtype=DOUBLE, requires_grad=True)
    with pytest.raises(OptionError, match=f"solver '{name}' cannot take its steps back.*gradient='checkpointed'"):
        solve(lambda t, y: -y, y0, [0.0, 1.0], solver=name, gradient="reversible", batch=batch, step_size=0.1)
    with pytest.raises(InputError, match=r"coupling=2: expected a number in \(0, 1\]"):
        Reversal(coupling=2)


# What happens on the way


@pytest.mark.parametrize("name", ["alf", "reversible heun", "dopri5"])
@pytest.mark.parametrize("jumps", [[0.4], [0.4, 0.45, 1.0]], ids=str)
def test_discontinuities(name: str, jumps: list[float]) -> None:
    """What the solver remembers begins anew, and what it had before is kept; one stretch may be a single step."""

    def f(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
        return sum((torch.sin((k + 1) * y) * rate for k, jump in enumerate(jumps) if t > jump), -y)

    y0, rate = seeded(3).requires_grad_(), torch.tensor(0.6, dtype=DOUBLE, requires_grad=True)
    for options in HOW["fixed"], HOW["adaptive"]:
        agree(
            f, y0, [0.0, 0.3, 0.42, 1.3], [y0, rate], args=(rate,), solver=SOLVERS[name], jump_times=jumps,
            step_times=[0.2, 0.77], **options,
        )  # fmt: skip


@pytest.mark.parametrize("save", ["steps", None])
@pytest.mark.parametrize("name", ["alf", "reversible heun", "dopri5"])
def test_events_that_bounce_and_that_end_the_solve(name: str, save: str | None) -> None:
    def grads(gradient: str) -> list[Tensor]:
        y0 = torch.tensor([1.0, 0.0], dtype=DOUBLE, requires_grad=True)
        gravity = torch.tensor(9.0, dtype=DOUBLE, requires_grad=True)
        floor = Event(lambda t, y, g: y[0], direction=-1, jump=lambda t, y, g: torch.stack([y[0], -0.8 * y[1]]))
        late = Event(lambda t, y, g: t - 1.5)
        solution = solve(
            lambda t, y, g: torch.stack([y[1], -g - 0.1 * y[1]]), y0, [0.0, 0.3, 0.7, 2.0], args=(gravity,),
            solver=SOLVERS[name], gradient=gradient, events=[floor, late], save=save, step_size=0.04,
        )  # fmt: skip
        assert len(solution.events[0].ts) == 2
        reached = solution.ys[~solution.ys.isnan().any(-1)]
        loss = reached.square().sum() + solution.events[0].ts.sum() + solution.y1.sum()
        return list(torch.autograd.grad(loss, [y0, gravity]))

    for one, other in zip(grads("direct"), grads("reversible"), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["alf", "reversible heun", "dopri5"])
def test_rows_on_their_own_steps(name: str) -> None:
    y0 = (0.5 * seeded(3, 2)).requires_grad_()
    weight = (0.7 * seeded(2, 2, seed=1)).requires_grad_()
    t = torch.tensor([[0.0, 0.3, 1.0], [0.0, 1.0, 2.0], [1.0, 0.8, 0.5]], dtype=DOUBLE, requires_grad=True)

    def f(t: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        return torch.cos(t) * torch.tanh(y @ weight) - 0.1 * y**3

    agree(
        f, y0, t, [y0, weight, t], solver=SOLVERS[name], batch="rows", args=(weight,), rtol=1e-3, atol=1e-4
    )  # type: ignore[misc]  # fmt: skip
    with torch.no_grad():
        plain = solve(f, y0, t, args=(weight,), gradient="reversible", batch="rows", rtol=1e-3, atol=1e-4)
    pair = solve(f, y0, t, args=(weight,), solver=Reversible(Dopri5), batch="rows", rtol=1e-3, atol=1e-4)
    assert torch.equal(plain.ys, pair.ys)


def test_a_layer_trains_by_it() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
    layers = [
        NeuralODE(lambda t, y: net(y), t=[0.0, 1.0], solver=solver, gradient=gradient, rtol=1e-4, atol=1e-4)
        for solver, gradient in ((Reversible(Dopri5), "direct"), ("dopri5", "reversible"))
    ]
    grads = [
        torch.autograd.grad(layer(seeded(5, 2).float()).square().sum(), list(net.parameters())) for layer in layers
    ]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


# Memory


def tensors_alive(steps: int, jumps: int, gradient: str) -> int:
    """Tensors that a solve of so many steps keeps for its backward pass."""
    y0 = torch.ones(3, dtype=DOUBLE, requires_grad=True)
    gc.collect()
    before = sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())
    solution = solve(
        lambda t, y: torch.cos(t) * y, y0, [0.0, 0.5, 1.0], solver=Reversible(RK4), gradient=gradient,
        step_size=1 / steps, jump_times=[(k + 1) / (jumps + 1) for k in range(jumps)], dense=False,
    )  # fmt: skip
    gc.collect()
    after = sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())
    assert solution.stats.steps >= steps
    return after - before


def test_the_tensors_that_are_kept_do_not_grow_with_the_steps() -> None:
    few, many = (tensors_alive(steps, 0, "reversible") for steps in (10, 100))
    assert few == many < 20
    assert tensors_alive(100, 0, "checkpointed") > 150
    assert few < tensors_alive(60, 4, "reversible") <= few + 16


class Watchful:
    """A field that knows how many of the states that it was ever asked at were alive at once."""

    def __init__(self) -> None:
        self.seen: list[weakref.ref[Tensor]] = []
        self.most = 0

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.seen = [ref for ref in self.seen if ref() is not None]
        self.seen.append(weakref.ref(y))
        self.most = max(self.most, len(self.seen))
        return torch.sin(y)


def test_neither_do_those_of_the_backward_pass() -> None:
    most: dict[tuple[str, int], int] = {}
    for gradient in ("direct", "reversible"):
        for steps in (10, 100):
            f = Watchful()
            y0 = torch.ones(3, dtype=DOUBLE, requires_grad=True)
            solution = solve(f, y0, [0.0, 1.0], solver=Reversible(RK4), gradient=gradient, step_size=1 / steps)
            solution.y1.sum().backward()
            most[gradient, steps] = f.most
    assert most["reversible", 100] == most["reversible", 10] < 40
    assert most["direct", 100] > 400


def test_what_going_back_costs() -> None:
    """A step of rk4 is taken back, with its graph, for eight calls. The first and the last are taken again for nine."""
    y0 = torch.ones(3, dtype=DOUBLE, requires_grad=True)
    solution = solve(lambda t, y: -y, y0, [0.0, 1.0], solver="rk4", gradient="reversible", step_size=0.1)
    solution.y1.sum().backward()
    stats = solution.stats
    assert (stats.nfe, stats.steps) == (1 + 80, 10)
    assert stats.steps_backward == 10 + 1  # the first one is also taken back, to see what rounding did
    assert stats.nfe_backward == 8 * 9 + 9 * 2 + 1


# Rounding


@pytest.mark.parametrize("name", ["alf", "reversible heun", "dopri5"])
def test_long_trajectories_come_back(name: str) -> None:
    """Hundreds of steps of a pendulum, without a warning."""

    def f(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
        return torch.stack([y[1], -rate * torch.sin(y[0])])

    y0, rate = torch.tensor([1.0, 0.0], dtype=DOUBLE, requires_grad=True), torch.ones((), dtype=DOUBLE)
    agree(f, y0, [0.0, 5.0, 10.0], [y0], 1e-8, args=(rate,), solver=SOLVERS[name], step_size=0.04)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_trajectory_that_is_lost_is_told(dtype: torch.dtype) -> None:
    """Everything has come to rest at 1, to the last bit, and nothing tells where it came from."""
    y0 = torch.tensor([3.0, 0.5], dtype=dtype, requires_grad=True)
    solver = Reversible(Dopri5, coupling=0.5)
    y1 = solve(lambda t, y: -10 * (y - 1), y0, [0.0, 5.0], solver=solver, gradient="reversible", step_size=0.02).y1
    with pytest.warns(ReversalDriftWarning, match="missed the state at t = 0 by .* gradient='checkpointed'"):
        y1.sum().backward()


def test_it_is_told_where_the_trajectory_is_lost_first() -> None:
    """At an output after which it contracts, although before it has come out of rest."""

    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t < 2, 15.0, -15.0) * (y - 1)

    y0 = torch.tensor([1.0 + 1e-12], dtype=DOUBLE, requires_grad=True)
    for times, lost in (([0.0, 4.0], 0), ([0.0, 2.0, 4.0], 2)):
        y1 = solve(f, y0, times, solver=Reversible(RK4, coupling=0.5), gradient="reversible", step_size=0.02).y1
        with pytest.warns(ReversalDriftWarning, match=f"missed the state at t = {lost} "):
            y1.sum().backward()


def test_states_of_zero_do_not_look_lost() -> None:
    y0 = torch.zeros(2, dtype=DOUBLE, requires_grad=True)

    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([torch.cos(t) * (1 + y[0]), 0 * y[1]])

    for times in ([0.0, 1.0], [0.0, 0.0]):
        y1 = solve(f, y0, times, solver="dopri5", gradient="reversible").y1
        y1.sum().backward()
        assert y0.grad is not None
        assert math.isfinite(float(y0.grad.sum()))


def test_the_end_of_a_solve_that_blows_up_may_be_lost_where_it_does_not_matter() -> None:
    """y' = y²: what comes after the last output is not gone through for a loss on the outputs."""
    y0 = torch.tensor([1.0], dtype=DOUBLE, requires_grad=True)
    solution = solve(
        lambda t, y: y**2, y0, [0.0, 0.5, 3.0], solver="dopri5", gradient="reversible", rtol=1e-8, atol=1e-8,
        throw=False,
    )  # fmt: skip
    (grad,) = torch.autograd.grad(solution.ys[1].sum(), y0, retain_graph=True)
    close(grad, [4.0], 1e-6)
    with pytest.warns(ReversalDriftWarning):
        torch.autograd.grad(solution.y1.sum(), y0)
