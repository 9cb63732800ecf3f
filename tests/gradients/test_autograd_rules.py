"""How the gradient methods behave inside autograd: second passes, second derivatives, transforms, memory, changes."""

from __future__ import annotations

import gc
import itertools
import weakref
from typing import Any

import pytest
import torch
from problems import DOUBLE, EXPLICIT, GRADIENTS, SOLVERS, Counted
from torch import Tensor, nn
from torch.autograd import gradgradcheck

from odekit import Status, solve
from odekit.errors import GradientError
from odekit.solving import solver_named

OWN_BACKWARD = ["checkpointed", "adjoint", "interpolated"]
JIT_WARNING = "ignore:`torch.jit.script` is deprecated:DeprecationWarning"


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def curved(t: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    return torch.tanh(y @ weight) - 0.1 * t * y**3


# The same pass again


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.filterwarnings("ignore::odekit.errors.AdjointDriftWarning")
def test_a_second_backward_pass_gives_the_same(solver: str, gradient: str) -> None:
    y0, weight = seeded(3, 2).requires_grad_(), seeded(2, 2, seed=1).requires_grad_()
    t = torch.tensor([0.0, 0.4, 1.0], dtype=DOUBLE, requires_grad=True)
    solution = solve(curved, y0, t, args=(weight,), solver=solver, gradient=gradient, step_size=0.1)
    loss = solution.ys.square().sum()
    first = torch.autograd.grad(loss, [y0, weight, t], retain_graph=True)
    nfe = solution.stats.nfe_backward
    second = torch.autograd.grad(loss, [y0, weight, t])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert solution.stats.nfe_backward == 2 * nfe


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_gradients_accumulate_over_solves_and_into_grad(gradient: str) -> None:
    weight = nn.Parameter(torch.tensor(0.7, dtype=DOUBLE))
    for expected in (1, 2):
        solve(lambda t, y: -weight * y, torch.ones(1, dtype=DOUBLE), [0.0, 1.0], gradient=gradient).y1.backward()
        assert float(weight.grad) == pytest.approx(-expected * float(torch.tensor(-0.7).exp()), rel=1e-5)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_losses_on_parts_of_the_answer_add_up(gradient: str) -> None:
    """Output by output, or all at once."""
    y0, weight = seeded(3, 2).requires_grad_(), seeded(2, 2, seed=1)
    ys = solve(curved, y0, [0.0, 0.4, 1.0, 1.5], args=(weight,), gradient=gradient, rtol=1e-9, atol=1e-11).ys
    parts = [torch.autograd.grad(ys[k].square().sum(), y0, retain_graph=True)[0] for k in range(4)]
    (whole,) = torch.autograd.grad(ys.square().sum(), y0)
    torch.testing.assert_close(sum(parts), whole, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(parts[0], 2 * y0.detach())


# Second derivatives


@pytest.mark.parametrize("solver", EXPLICIT)
def test_second_derivatives_through_direct(solver: str) -> None:
    def end(y0: Tensor, weight: Tensor, t: Tensor) -> Tensor:
        return solve(curved, y0, t, args=(weight,), solver=solver, step_size=0.5).ys

    t = torch.tensor([0.0, 0.3, 1.0], dtype=DOUBLE)
    inputs = [(0.5 * seeded(2, 2)).requires_grad_(), seeded(2, 2, seed=1).requires_grad_(), t.requires_grad_()]
    assert gradgradcheck(end, inputs, atol=1e-5)


@pytest.mark.parametrize("batch", ["shared", pytest.param("rows", marks=pytest.mark.slow)])
@pytest.mark.parametrize("gradient", [*OWN_BACKWARD[:2], pytest.param("interpolated", marks=pytest.mark.slow)])
def test_second_derivatives_through_backward_passes_of_their_own(gradient: str, batch: str) -> None:
    """With respect to everything, of a function that is captured, passed in and told the time."""
    scale = torch.tensor(0.8, dtype=DOUBLE, requires_grad=True)

    def outputs(y0: Tensor, weight: Tensor, t: Tensor, scale: Tensor) -> Tensor:
        solution = solve(
            lambda t, y, w: scale * curved(t, y, w), y0, t, args=(weight,), gradient=gradient, batch=batch,
            rtol=1e-9, atol=1e-10,
        )  # fmt: skip
        return torch.cat([solution.ys.flatten(), solution.y1.flatten()])

    t = torch.tensor([0.0, 0.3, 1.0], dtype=DOUBLE, requires_grad=True)
    inputs = (0.5 * seeded(1, 2)).requires_grad_(), seeded(2, 2, seed=1).requires_grad_(), t, scale
    assert gradgradcheck(outputs, inputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gradient", OWN_BACKWARD)
def test_a_gradient_penalty_beside_the_loss(gradient: str) -> None:
    """The usual use of second derivatives, by each method as by direct."""
    found = []
    for method in ("direct", gradient):
        y0, weight = seeded(3, 2).requires_grad_(), seeded(2, 2, seed=1).requires_grad_()
        y1 = solve(curved, y0, [0.0, 1.0], args=(weight,), gradient=method, rtol=1e-10, atol=1e-11).y1
        (grad,) = torch.autograd.grad(y1.square().sum(), y0, create_graph=True)
        (y1.sum() + grad.square().sum()).backward()
        found.append((y0.grad, weight.grad))
    torch.testing.assert_close(found[1], found[0], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("gradient", OWN_BACKWARD)
def test_third_derivatives_are_an_error(gradient: str) -> None:
    y0, weight = seeded(3, 2).requires_grad_(), seeded(2, 2, seed=1).requires_grad_()
    y1 = solve(curved, y0, [0.0, 1.0], args=(weight,), gradient=gradient).y1
    (grad,) = torch.autograd.grad(y1.square().sum(), y0, create_graph=True)
    (second,) = torch.autograd.grad(grad.square().sum(), y0, create_graph=True)
    with pytest.raises(GradientError, match="third derivatives"):
        second.sum().backward()


@pytest.mark.parametrize("order", [1, 2])
def test_one_derivative_more_of_implicit_steps_than_they_are_made_for_is_an_error(order: int) -> None:
    y0, weight = seeded(3, 2).requires_grad_(), seeded(2, 2, seed=1).requires_grad_()
    solver = solver_named("kvaerno3").differentiable(order)
    derivative = solve(curved, y0, [0.0, 0.2], args=(weight,), solver=solver, step_size=0.1).y1
    for _ in range(order):
        (derivative,) = torch.autograd.grad(derivative.square().sum(), y0, create_graph=True)
    with pytest.raises(GradientError, match=r"newton=Newton\(derivatives=2\)"):
        derivative.sum().backward()


def _implicit(solver: str, gradient: str, batch: str) -> Any:
    slow = (solver, gradient, batch) not in {("kvaerno3", "direct", "rows"), ("radau5", "checkpointed", "shared")}
    return pytest.param(solver, gradient, batch, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(
    ("solver", "gradient", "batch"),
    [
        _implicit(*each)
        for each in itertools.product(
            ["kvaerno3", "radau5", "rodas5p", "bdf"], ["direct", "checkpointed", "adjoint"], ["shared", "rows"]
        )
        if each[:2] != ("kvaerno3", "adjoint")  # which takes minutes
    ],
)
def test_second_derivatives_through_implicit_steps(solver: str, gradient: str, batch: str) -> None:
    """Of the computed numbers: with respect to the start, the times and the weight, by finite differences."""
    made = solver_named(solver)
    made = made.differentiable(2) if gradient == "direct" else made
    exact = gradient != "adjoint"
    steps = {"step_size": 0.25} if exact else {"rtol": 1e-8, "atol": 1e-9}

    def outputs(y0: Tensor, weight: Tensor, t: Tensor) -> Tensor:
        return solve(curved, y0, t, args=(weight,), solver=made, gradient=gradient, batch=batch, **steps).ys

    t = torch.tensor([0.0, 0.2, 0.5], dtype=DOUBLE, requires_grad=True)
    inputs = (0.5 * seeded(1, 2)).requires_grad_(), seeded(2, 2, seed=1).requires_grad_(), t
    tolerance = {"rtol": 1e-5, "atol": 1e-7} if exact else {"rtol": 1e-3, "atol": 1e-4}
    assert gradgradcheck(outputs, inputs, **tolerance)


def test_a_gradient_penalty_through_implicit_steps_keeps_the_first_derivative() -> None:
    """A solver that is made for two derivatives has the first one of the usual solver."""
    found = []
    for order in (1, 2):
        y0, weight = seeded(3, 2).requires_grad_(), seeded(2, 2, seed=1).requires_grad_()
        solver = solver_named("radau5").differentiable(order)
        y1 = solve(curved, y0, [0.0, 0.5], args=(weight,), solver=solver, step_size=0.25).y1
        found.append((y1.detach(), *torch.autograd.grad(y1.square().sum(), [y0, weight])))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("gradient", OWN_BACKWARD)
def test_create_graph_alone_is_no_error(gradient: str) -> None:
    y0, weight = seeded(3, 2).requires_grad_(), seeded(2, 2, seed=1)
    y1 = solve(curved, y0, [0.0, 1.0], args=(weight,), gradient=gradient).y1
    (plain,) = torch.autograd.grad(y1.sum(), y0, retain_graph=True)
    (with_graph,) = torch.autograd.grad(y1.sum(), y0, create_graph=True)
    assert torch.equal(plain, with_graph)


# Transforms


@pytest.mark.parametrize("solver", EXPLICIT)
@pytest.mark.filterwarnings(JIT_WARNING)
def test_function_transforms_through_direct_with_fixed_steps(solver: str) -> None:
    weight = seeded(2, 2, seed=1)

    def end(y0: Tensor) -> Tensor:
        return solve(curved, y0, [0.0, 0.4, 1.0], args=(weight,), solver=solver, step_size=0.25).ys.square().sum()

    y0 = seeded(3, 2).requires_grad_()
    (truth,) = torch.autograd.grad(end(y0), y0)
    point = y0.detach()
    torch.testing.assert_close(torch.func.grad(end)(point), truth)
    along = seeded(3, 2, seed=4)
    torch.testing.assert_close(torch.func.jvp(end, (point,), (along,))[1], (truth * along).sum())
    torch.testing.assert_close(torch.func.jacrev(end)(point), truth)
    (product,) = torch.func.jvp(torch.func.grad(end), (point,), (along,))[1:]
    (once,) = torch.autograd.grad(end(y0), y0, create_graph=True)
    torch.testing.assert_close(product, torch.autograd.grad(once, y0, along)[0])


@pytest.mark.parametrize("gradient", OWN_BACKWARD)
@pytest.mark.filterwarnings(JIT_WARNING)
def test_function_transforms_through_other_methods_are_refused(gradient: str) -> None:
    def end(y0: Tensor) -> Tensor:
        return solve(lambda t, y: -y, y0, [0.0, 1.0], gradient=gradient).y1.sum()

    for transform in (torch.func.grad(end), lambda y: torch.func.jvp(end, (y,), (y,))):
        with pytest.raises(RuntimeError):
            transform(seeded(2))


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("solver", SOLVERS)
def test_no_grad_and_inference_mode(solver: str, mode: Any, gradient: str) -> None:
    y0, weight = seeded(3, 2).requires_grad_(), seeded(2, 2, seed=1).requires_grad_()
    expected = solve(curved, y0, [0.0, 0.4, 1.0], args=(weight,), solver=solver, step_size=0.1, gradient=gradient)
    with mode():
        found = solve(curved, y0, [0.0, 0.4, 1.0], args=(weight,), solver=solver, step_size=0.1, gradient=gradient)
    assert not found.ys.requires_grad
    torch.testing.assert_close(found.ys, expected.ys.detach(), rtol=1e-12, atol=0)


# Changes in place


@pytest.mark.parametrize("gradient", OWN_BACKWARD)
@pytest.mark.parametrize("what", ["parameter", "argument"])
def test_a_tensor_changed_before_the_backward_pass_is_an_error(what: str, gradient: str) -> None:
    """The backward pass calls f again, and must not see other parameters than the forward pass did."""
    weight, scale = seeded(2, 2).requires_grad_(), torch.ones((), dtype=DOUBLE, requires_grad=True)
    y0 = seeded(3, 2)
    y1 = solve(lambda t, y, w: scale * curved(t, y, w), y0, [0.0, 1.0], args=(weight,), gradient=gradient).y1
    with torch.no_grad():
        (scale if what == "parameter" else weight).add_(0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y1.sum().backward()


def test_an_initial_state_changed_before_the_replay_is_an_error() -> None:
    weight, y0 = seeded(2, 2).requires_grad_(), seeded(3, 2)
    y1 = solve(curved, y0, [0.0, 1.0], args=(weight,), gradient="checkpointed").y1
    y0.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y1.sum().backward()


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_training_steps_in_a_row(gradient: str) -> None:
    """Forward, backward, step: the usual loop changes parameters in place, after the backward pass."""
    net = nn.Linear(2, 2).double()
    optimiser = torch.optim.Adam(net.parameters(), 0.05)
    losses = []
    for _ in range(10):
        optimiser.zero_grad()
        y1 = solve(lambda t, y: net(y), torch.ones(3, 2, dtype=DOUBLE), [0.0, 1.0], gradient=gradient).y1
        loss = (y1 - 2).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


# Memory


def kept_by(solution: Any) -> list[Tensor]:
    """The states on the tape of a checkpointed solve."""
    return [y0 for y0, _ in solution.y1.grad_fn.tape.kept.states.values()]


def test_checkpointed_keeps_the_accepted_states_and_nothing_else() -> None:
    weight, y0 = seeded(2, 2).requires_grad_(), seeded(3, 2)
    solution = solve(curved, y0, [0.0, 0.4, 1.0], args=(weight,), gradient="checkpointed", rtol=1e-8)
    states = kept_by(solution)
    assert len(states) == solution.stats.accepted
    assert all(state.grad_fn is None and state.shape == (3, 2) for state in states)
    assert all(carry is None for _, carry in solution.y1.grad_fn.tape.kept.states.values())


@pytest.mark.parametrize("gradient", OWN_BACKWARD)
def test_activations_are_freed_as_the_solve_goes(gradient: str) -> None:
    """At most a handful of f's intermediate results are alive at any time, however many steps there are."""
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def f(t: Tensor, y: Tensor) -> Tensor:
        nonlocal most
        inner = torch.sin(weight * y)
        most = max(most, sum(ref() is not None for ref in alive))
        alive.append(weakref.ref(inner))
        return -inner.clone()

    weight = torch.ones(3, dtype=DOUBLE, requires_grad=True)
    y1 = solve(f, seeded(3), [0.0, 1.0], gradient=gradient, solver="rk4", step_size=0.02).y1
    y1.sum().backward()
    assert len(alive) >= 400
    assert most <= 8


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_nothing_outlives_the_answer(gradient: str) -> None:
    """No reference cycle keeps a solve alive until the collector runs."""

    class Marker:
        def __call__(self, t: Tensor, y: Tensor) -> Tensor:
            return -weight * y

    weight = torch.ones(3, dtype=DOUBLE, requires_grad=True)
    f = Marker()
    gone = weakref.ref(f)
    gc.collect()
    gc.disable()
    try:
        solution = solve(f, seeded(3), [0.0, 1.0], gradient=gradient)
        solution.y1.sum().backward()
        del solution, f
        assert gone() is None
    finally:
        gc.enable()


# Failures


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("t", [[0.0, 0.1, 0.25, 3.0], [0.0, 0.1, 0.26, 0.27, 3.0]], ids=["on the grid", "off the grid"])
@pytest.mark.parametrize("solver", ["rk4", "dopri5", "bosh3"])
def test_a_failed_solve_keeps_the_gradient_of_what_was_reached(solver: str, t: list[float], gradient: str) -> None:
    """y' = c y² blows up at t = 1/c y0 = 1; the outputs before have derivative y² / y0² with respect to y0."""
    c = torch.ones((), dtype=DOUBLE, requires_grad=True)
    y0 = torch.tensor([1.0], dtype=DOUBLE, requires_grad=True)
    options = {"step_size": 0.01} if solver == "rk4" else {"rtol": 1e-6, "atol": 1e-8}
    f = Counted(lambda t, y: c * y**2)
    solution = solve(f, y0, t, solver=solver, gradient=gradient, throw=False, **options)
    assert not solution.status.ok
    reached = solution.ys[:-1, 0]
    by_y0, by_c = torch.autograd.grad(reached.sum(), [y0, c])
    times = torch.tensor(t[:-1], dtype=DOUBLE)
    y = 1 / (1 - times)
    torch.testing.assert_close(reached.detach(), y, rtol=1e-4, atol=0)
    torch.testing.assert_close(by_y0, y.square().sum().reshape(1), rtol=1e-4, atol=0)
    torch.testing.assert_close(by_c, (times * y.square()).sum(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("t", [[0.0, 0.5, 3.0], [0.0, 0.505, 0.507, 3.0], [0.0, 3.0]], ids=str)
def test_the_state_that_a_failed_solve_ends_in_has_its_gradient(t: list[float], gradient: str) -> None:
    """With fixed steps that is the last finite output."""
    y0 = torch.tensor([1.0], dtype=DOUBLE, requires_grad=True)
    solution = solve(lambda t, y: y**2, y0, t, solver="rk4", step_size=0.02, gradient=gradient, throw=False)
    assert solution.status is Status.NON_FINITE
    assert solution.t1 == t[-2]
    (grad,) = torch.autograd.grad(solution.y1.sum() + solution.ys[-2].sum(), y0)
    torch.testing.assert_close(grad, torch.tensor([2 / (1 - t[-2]) ** 2], dtype=DOUBLE), rtol=1e-4, atol=0)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_solve_that_fails_at_once_still_has_y0(gradient: str) -> None:
    y0 = torch.tensor([1.0], dtype=DOUBLE, requires_grad=True)
    solution = solve(lambda t, y: y * torch.nan, y0, [0.0, 1.0], gradient=gradient, throw=False)
    (grad,) = torch.autograd.grad(solution.ys[0].sum() + solution.y1.sum(), y0)
    assert grad.tolist() == [2.0]
