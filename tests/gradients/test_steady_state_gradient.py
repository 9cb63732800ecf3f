"""Gradients of steady states: closed forms, the limit of long exact solves, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from problems import DOUBLE, Counted
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from odekit import Status, solve, steady_state
from odekit.errors import GradientError, InputError, SolveError
from odekit.gradients import Implicit

TIGHT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-11, "solver": "dopri8"}


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def settling(t: Tensor, y: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
    """A recurrent network, with one steady state for small weights; rows do not interact."""
    return torch.tanh(y @ weight + shift) - y


def rest(f: Any, y0: Any, **options: Any) -> Any:
    options = {"gradient": "implicit", "events": steady_state(f, rtol=1e-8, atol=1e-10), **TIGHT, **options}
    return solve(f, y0, [0.0, math.inf], **options)


# The numbers


@pytest.mark.parametrize("solver", ["dopri5", *(pytest.param(x, marks=pytest.mark.slow) for x in ("kvaerno3", "bdf"))])
def test_a_steady_state_in_closed_form(solver: str) -> None:
    """y' = a - b y² comes to rest at √(a/b), with derivatives y/2a and -y/2b."""
    a = torch.tensor([2.0, 3.0], dtype=DOUBLE, requires_grad=True)
    b = torch.tensor(0.5, dtype=DOUBLE, requires_grad=True)
    y0 = torch.ones(2, dtype=DOUBLE, requires_grad=True)
    options: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-9, "solver": solver}
    f = Counted(lambda t, y, a: a - b * y**2)
    solution = solve(
        f, y0, [0.0, math.inf], args=(a,), gradient="implicit", events=steady_state(f.f, rtol=1e-6), **options
    )
    y = (a / b).sqrt().detach()
    assert solution.status is Status.EVENT
    torch.testing.assert_close(solution.y1.detach(), y, rtol=1e-6, atol=0)
    assert f.calls == solution.stats.nfe
    by_a, by_b, by_y0 = torch.autograd.grad(solution.y1.sum(), [a, b, y0], retain_graph=True)
    torch.testing.assert_close(by_a, y / (2 * a.detach()), rtol=1e-6, atol=0)
    torch.testing.assert_close(by_b, -(y / (2 * b.detach())).sum(), rtol=1e-6, atol=0)
    assert by_y0.tolist() == [0.0, 0.0]
    assert solution.stats.nfe_backward == 1
    assert torch.equal(torch.autograd.grad(solution.y1.sum(), a)[0], by_a)


@pytest.mark.parametrize("linear", ["auto", "gmres"])
def test_it_is_the_limit_of_direct(linear: Any) -> None:
    weight, shift = (0.5 * seeded(3, 3)).requires_grad_(), seeded(3, seed=1).requires_grad_()
    args, loss = (weight, shift), seeded(4, 3, seed=3)
    y1 = rest(settling, torch.zeros(4, 3, dtype=DOUBLE) + seeded(4, 3), args=args, gradient=Implicit(linear=linear)).y1
    found = torch.autograd.grad((loss * y1).sum(), [weight, shift])
    far = solve(settling, seeded(4, 3), [0.0, 40.0], args=args, **TIGHT).y1
    truth = torch.autograd.grad((loss * far).sum(), [weight, shift])
    torch.testing.assert_close(found, truth, rtol=1e-6, atol=1e-8)


def test_rows_that_interact_and_nested_states() -> None:
    coupling = torch.tensor(0.3, dtype=DOUBLE, requires_grad=True)

    def f(t: Tensor, y: Any) -> Any:
        a, b = y["a"], y["b"]
        return {"a": torch.cos(b).mean() * coupling - a, "b": a.sum() - b}

    y0 = {"a": seeded(3), "b": seeded(2, 2)}
    found, truth = (
        torch.autograd.grad(s.y1["a"].sum() + s.y1["b"].square().sum(), coupling)[0]
        for s in (rest(f, y0), solve(f, y0, [0.0, 40.0], **TIGHT))
    )
    torch.testing.assert_close(found, truth, rtol=1e-6, atol=0)


def test_complex_states_that_need_not_be_holomorphic() -> None:
    """z' = a - z - z̄/2: at rest z = (2/3) Re a + 2 i Im a."""
    a = torch.tensor([0.4 + 0.3j, -1.0 + 2j], dtype=torch.complex128, requires_grad=True)
    y1 = rest(lambda t, z: a - z - z.conj() / 2, torch.zeros(2, dtype=torch.complex128)).y1
    (grad,) = torch.autograd.grad((y1.real * 3 + y1.imag * 5).sum(), a)
    torch.testing.assert_close(grad, torch.full((2,), 2 + 10j, dtype=torch.complex128), rtol=1e-7, atol=0)


def test_single_precision() -> None:
    scale = torch.tensor(2.0, requires_grad=True)
    f = Counted(lambda t, y: scale - y)
    solution = solve(f, torch.zeros(3), [0.0, math.inf], gradient="implicit", events=steady_state(f.f))
    assert solution.y1.dtype == torch.float32
    assert torch.autograd.grad(solution.y1.sum(), scale)[0].item() == pytest.approx(3.0, rel=1e-5)


def test_a_fixed_end_and_several_outputs_there() -> None:
    scale = torch.tensor(2.0, dtype=DOUBLE, requires_grad=True)
    t = torch.tensor([0.0, 1.0, 40.0, 40.0], dtype=DOUBLE, requires_grad=True)
    solution = solve(lambda t, y: scale - y, torch.zeros(1, dtype=DOUBLE), t, gradient="implicit", **TIGHT)
    loss = solution.ys[2] + 2 * solution.ys[-1] + 4 * solution.y1
    by_scale, by_t = torch.autograd.grad(loss.sum(), [scale, t])
    assert float(by_scale) == pytest.approx(7.0)
    assert by_t.tolist() == [0.0] * 4


def test_a_second_derivative_in_closed_form() -> None:
    """y = √(a/b): ∂²y/∂a² = -y/4a² and ∂²y/∂a∂b = -y/4ab."""
    a, b = (torch.tensor(x, dtype=DOUBLE, requires_grad=True) for x in (2.0, 0.5))
    options: dict[str, Any] = {"solver": "rk4", "step_size": 0.5, "gradient": "implicit"}
    y1 = solve(lambda t, y: a - b * y**2, torch.ones(1, dtype=DOUBLE), [0.0, 30.0], **options).y1
    (first,) = torch.autograd.grad(y1.sum(), a, create_graph=True)
    second = torch.autograd.grad(first, [a, b])
    assert [float(x) for x in second] == pytest.approx([-2 / 16, -2 / 4], rel=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("linear", ["auto", "dense"])
def test_gradcheck_and_gradgradcheck(linear: str) -> None:
    def end(weight: Tensor, shift: Tensor) -> Tensor:
        return rest(
            settling, torch.zeros(2, 2, dtype=DOUBLE), args=(weight, shift), gradient=Implicit(linear=linear)
        ).y1

    inputs = (0.5 * seeded(2, 2)).requires_grad_(), seeded(2, seed=1).requires_grad_()
    assert gradcheck(end, inputs, rtol=1e-4, atol=1e-6)
    assert gradgradcheck(end, inputs, rtol=1e-3, atol=1e-5)


def test_a_large_state_makes_no_matrix() -> None:
    """A chain of 1500 numbers, each of them pulled to its neighbour and to a constant."""
    pull = torch.tensor(1.0, dtype=DOUBLE, requires_grad=True)

    def f(t: Tensor, y: Tensor) -> Tensor:
        return 0.3 * (torch.roll(y, 1) - y) + pull - 0.5 * y

    y1 = solve(f, torch.zeros(1500, dtype=DOUBLE), [0.0, 80.0], gradient="implicit", rtol=1e-8, atol=1e-10).y1
    assert float(torch.autograd.grad(y1.mean(), pull)[0]) == pytest.approx(2.0, rel=1e-8)


class Equilibrium(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(2, 2).double()

    def forward(self, t: Tensor, y: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(0.3 * self.inner(y) + x) - y


@pytest.mark.parametrize(
    ("batch", "solver"), [("shared", "dopri5"), pytest.param("rows", "bdf", marks=pytest.mark.slow), ("rows", "dopri5")]
)
def test_a_deep_equilibrium_layer(batch: str, solver: str) -> None:
    """Parameters and inputs of a layer whose output is a steady state; started there again it is done at once."""
    net, x = Equilibrium(), seeded(3, 2).requires_grad_()
    parameters = list(net.parameters())
    t = [0.0, math.inf] if batch == "shared" else [0.0, 200.0]
    events = steady_state(net, rtol=1e-7, atol=1e-8)
    options: dict[str, Any] = {"args": (x,), "solver": solver, "rtol": 1e-8, "atol": 1e-9}
    y0 = torch.zeros(3, 2, dtype=DOUBLE)
    solution = solve(net, y0, t, gradient="implicit", batch=batch, events=events, **options)
    found = torch.autograd.grad(solution.y1.square().sum(), [x, *parameters])
    far = solve(net, y0, [0.0, 30.0], args=(x,), **TIGHT).y1
    truth = torch.autograd.grad(far.square().sum(), [x, *parameters])
    torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-6)
    again = solve(net, solution.y1.detach(), t, gradient="implicit", batch=batch, events=events, **options)
    assert int(torch.as_tensor(again.stats.steps).max()) == 1
    warm = torch.autograd.grad(again.y1.square().sum(), [x, *parameters])
    torch.testing.assert_close(warm, truth, rtol=1e-5, atol=1e-6)


# What it refuses


def test_an_output_on_its_way_is_an_error_and_one_at_rest_is_not() -> None:
    scale = torch.tensor(2.0, dtype=DOUBLE, requires_grad=True)
    y0 = torch.zeros(1, dtype=DOUBLE, requires_grad=True)
    ys = solve(lambda t, y: scale - y, y0, [0.0, 1.0, 30.0, 40.0], gradient="implicit", **TIGHT).ys
    with pytest.raises(GradientError, match="at t = 1 the state is"):
        torch.autograd.grad(ys[1].sum(), scale, retain_graph=True)
    by_scale, by_y0 = torch.autograd.grad((3 * ys[0] + 5 * ys[2]).sum(), [scale, y0], retain_graph=True)
    assert float(by_scale) == pytest.approx(5.0)
    assert float(by_y0) == 3.0
    (first,) = torch.autograd.grad((scale**2 * ys[2]).sum(), scale, create_graph=True)
    with pytest.raises(GradientError, match="second derivatives of the last state alone"):
        first.backward()


def test_a_state_on_its_way_is_an_error_that_says_how_far_it_is() -> None:
    scale = torch.tensor(2.0, dtype=DOUBLE, requires_grad=True)
    options: dict[str, Any] = {"rtol": 1e-7, "atol": 1e-9}

    def f(t: Tensor, y: Tensor) -> Tensor:
        return scale - 5 * y

    with pytest.raises(GradientError, match=r"at t = 1 the state is 6\.\de\+04 tolerances away.*odekit\.steady_state"):
        solve(f, torch.zeros(1, dtype=DOUBLE), [0.0, 1.0], gradient="implicit", **options)
    y1 = solve(f, torch.zeros(1, dtype=DOUBLE), [0.0, 1.0], gradient=Implicit(slack=1e5), **options).y1
    assert float(torch.autograd.grad(y1, scale)[0]) == pytest.approx(0.2)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_how_steady_is_enough_does_not_depend_on_the_unit_of_time(unit: float) -> None:
    scale = torch.tensor(2.0, dtype=DOUBLE, requires_grad=True)
    for end, fine in ((40.0, True), (8.0, False)):
        try:
            solve(
                lambda t, y: (scale - y) / unit, torch.zeros(1, dtype=DOUBLE), [0.0, end * unit], gradient="implicit",
                rtol=1e-7, atol=1e-9,
            )  # fmt: skip
        except GradientError:
            assert not fine
        else:
            assert fine


@pytest.mark.parametrize("linear", ["dense", "gmres"])
def test_a_steady_state_among_others_is_an_error(linear: str) -> None:
    """Two compartments that exchange what they hold: its sum is conserved."""
    rate = torch.tensor(2.0, dtype=DOUBLE, requires_grad=True)

    def f(t: Tensor, y: Tensor) -> Tensor:
        flow = rate * y[0] - y[1]
        return torch.stack([-flow, flow])

    def grad() -> Tensor:
        y0 = torch.tensor([1.0, 0.0], dtype=DOUBLE)
        y1 = solve(f, y0, [0.0, 40.0], gradient=Implicit(linear=linear), **TIGHT).y1
        return torch.autograd.grad(y1.square().sum(), rate)[0]

    with pytest.raises(GradientError, match=r"singular|GMRES left"):
        grad()


def test_second_derivatives_without_a_matrix_are_an_error() -> None:
    shift = seeded(2).requires_grad_()
    y1 = rest(lambda t, y: torch.cos(y) + shift - 2 * y, seeded(2), gradient=Implicit(linear="gmres")).y1
    (grad,) = torch.autograd.grad(y1.sum(), shift, create_graph=True)
    with pytest.raises(GradientError, match="linear='dense'"):
        grad.sum().backward()


def test_a_failed_solve_fails_as_it_would_without_gradients() -> None:
    y0 = torch.ones(1, dtype=DOUBLE, requires_grad=True)
    with pytest.raises(SolveError):
        solve(lambda t, y: y**2, y0, [0.0, 2.0], gradient="implicit")
    solution = solve(lambda t, y: y**2, y0, [0.0, 2.0], gradient="implicit", throw=False)
    with pytest.raises(GradientError, match="a solve that failed"):
        solution.y1.sum().backward()


def test_settings_are_checked() -> None:
    for options in ({"slack": 0}, {"slack": "much"}, {"linear": "qr"}):
        with pytest.raises(InputError):
            Implicit(**options)


def test_nothing_is_made_where_no_gradient_is_wanted() -> None:
    f = Counted(lambda t, y: -y)
    solution = solve(f, torch.ones(1, dtype=DOUBLE), [0.0, 1.0], gradient="implicit", solver="rk4", step_size=0.25)
    assert not solution.y1.requires_grad
    assert f.calls <= 17
    with torch.no_grad():
        y0 = torch.ones(1, dtype=DOUBLE, requires_grad=True)
        assert not solve(f, y0, [0.0, 1.0], gradient="implicit").y1.requires_grad
