"""Gradients of the torchdiffeq interface: odeint, odeint_adjoint and its options, events, dense output."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import DOUBLE, Counted, close, decay
from torch import Tensor, nn

import odekit
from odekit.compat import torchdiffeq

UNIT = torch.tensor([0.0, 1.0], dtype=DOUBLE)


class Net(nn.Module):
    """A small field that depends on time."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(3, 3, dtype=DOUBLE, generator=generator))
        self.unused = nn.Parameter(torch.ones(2, dtype=DOUBLE))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(y @ self.weight) * torch.cos(t)


def leaves() -> tuple[Tensor, Tensor]:
    y0 = torch.linspace(-1, 1, 12, dtype=DOUBLE).reshape(4, 3).requires_grad_()
    return y0, torch.tensor([0.0, 0.4, 1.3], dtype=DOUBLE, requires_grad=True)


def gradients(solve: Callable[..., Any], net: Net) -> list[Tensor]:
    y0, t = leaves()
    loss = (solve(net, y0, t) ** 2).sum()
    grads = torch.autograd.grad(loss, [y0, t, net.weight, net.unused], allow_unused=True)
    return [torch.zeros(2, dtype=DOUBLE) if grad is None else grad for grad in grads]


def native(net: Net, y0: Tensor, t: Tensor) -> Tensor:
    return odekit.solve(net, y0, t, rtol=1e-9, atol=1e-11).ys


tight = {"rtol": 1e-9, "atol": 1e-11}


@pytest.mark.parametrize(
    "solve",
    [
        functools.partial(torchdiffeq.odeint, **tight),
        functools.partial(torchdiffeq.odeint_adjoint, **tight),
        functools.partial(torchdiffeq.odeint_adjoint, method="dopri8", **tight),
        functools.partial(torchdiffeq.odeint_adjoint, adjoint_options={"norm": "seminorm"}, **tight),
        functools.partial(
            torchdiffeq.odeint_adjoint, adjoint_method="rk4", adjoint_options={"step_size": 0.02}, **tight
        ),
        functools.partial(torchdiffeq.odeint_adjoint, method="gl6", options={"step_size": 0.05}),
        functools.partial(torchdiffeq.odeint_adjoint, method="scipy_solver", options={"solver": "DOP853"}, **tight),
    ],
)
def test_gradients_are_those_of_the_native_solve(solve: Callable[..., Any]) -> None:
    net = Net()
    for found, expected in zip(gradients(solve, net), gradients(native, net), strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"step_size": 0.15}, {"step_size": 0.15, "interp": "cubic"}])
@pytest.mark.parametrize("method", ["euler", "rk4"])
def test_on_a_grid_the_gradient_in_time_is_that_of_the_numbers(method: str, options: dict[str, Any]) -> None:
    """However coarse the grid, which moves with the output times."""

    def solved(t: Tensor) -> Tensor:
        return torchdiffeq.odeint(lambda t, y: torch.sin(3 * t) * torch.cos(y), y0, t, method=method, options=options)

    y0 = torch.tensor([0.5, 2.0], dtype=DOUBLE)
    for ends in ((0.0, 1.0), (1.0, 0.0)):
        assert torch.autograd.gradcheck(solved, torch.linspace(*ends, 4, dtype=DOUBLE).requires_grad_())


def test_the_adjoint_gives_zeros_for_parameters_that_do_not_matter() -> None:
    net = Net()
    torchdiffeq.odeint_adjoint(net, leaves()[0], UNIT).sum().backward()
    assert torch.equal(net.unused.grad, torch.zeros(2, dtype=DOUBLE))


def test_only_the_parameters_that_are_named_get_a_gradient() -> None:
    net = Net()
    torchdiffeq.odeint_adjoint(net, leaves()[0], UNIT, adjoint_params=()).sum().backward()
    assert net.weight.grad is None


def test_a_function_needs_its_parameters_named() -> None:
    with pytest.raises(ValueError, match="adjoint_params"):
        torchdiffeq.odeint_adjoint(decay, torch.ones(1), UNIT)
    with pytest.raises(ValueError, match="adjoint_options"):
        torchdiffeq.odeint_adjoint(Net(), torch.ones(3), UNIT, options={}, adjoint_method="rk4")


def test_second_derivatives_through_the_adjoint_are_an_error() -> None:
    y0, _ = leaves()
    y = torchdiffeq.odeint_adjoint(Net(), y0, UNIT)
    (grad,) = torch.autograd.grad(y.sum(), y0, create_graph=True)
    with pytest.raises(odekit.errors.GradientError, match="second derivatives"):
        grad.sum().backward()


def test_the_adjoint_norm_sees_packed_parts_and_may_be_replaced_before_backward() -> None:
    net, shapes = Net(), []
    y0 = leaves()[0]
    y = torchdiffeq.odeint_adjoint(net, y0, UNIT)
    usual = y.grad_fn.adjoint_options["norm"]

    def spy(parts: tuple[Tensor, ...]) -> Tensor:
        shapes.append([tuple(part.shape) for part in parts])
        return usual(parts)

    y.grad_fn.adjoint_options["norm"] = spy
    y.sum().backward()
    assert shapes[0] == [(), (4, 3), (4, 3), (3, 3), (2,)]


def test_an_adjoint_norm_of_a_tuple_state_sees_its_parts() -> None:
    shapes = []

    def norm(parts: tuple[Tensor, ...]) -> Tensor:
        shapes.append([tuple(part.shape) for part in parts])
        return torch.stack([part.abs().amax() for part in parts[:5]]).amax()

    w = torch.tensor(-0.7, requires_grad=True)
    y0 = torch.ones(3, 2), torch.zeros(3, 1)
    y = torchdiffeq.odeint_adjoint(
        lambda t, y: (w * y[0], y[0].sum(1, keepdim=True)), y0, UNIT, adjoint_params=[w], adjoint_options={"norm": norm}
    )
    y[0][1].sum().backward()
    assert shapes[0] == [(), (3, 2), (3, 1), (3, 2), (3, 1), ()]
    close(w.grad, 6 * math.exp(-0.7), tol=1e-5)


def test_callbacks_of_the_backward_solve() -> None:
    class Told(Net):
        def callback_step_adjoint(self, t0: Tensor, state: tuple[Tensor, ...], dt: Tensor) -> None:
            starts.append(float(t0))
            assert [part.shape for part in state[1:3]] == [(4, 3), (4, 3)]

    starts: list[float] = []
    y = torchdiffeq.odeint_adjoint(Told(), leaves()[0], UNIT, method="rk4", options={"step_size": 0.25})
    assert starts == []
    y.sum().backward()
    assert starts == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_jumps_and_grids_hold_for_the_backward_solve_too() -> None:
    def kinked(t: Tensor, y: Tensor) -> Tensor:
        return -y if t < 0.5 else y**2

    y0 = torch.tensor([0.5, 0.9], dtype=DOUBLE, requires_grad=True)
    calls = []
    for options in ({}, {"jump_t": torch.tensor([0.5])}):
        f = Counted(kinked)
        y = torchdiffeq.odeint_adjoint(f, y0, UNIT, adjoint_params=(), options=options)
        f.times.clear()
        (grad,) = torch.autograd.grad(y[-1].sum(), y0)
        calls.append(f.calls)
        middle = y0.detach() * math.exp(-0.5)
        close(grad, math.exp(-0.5) / (1 - 0.5 * middle) ** 2, tol=1e-5)
    assert calls[1] < calls[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("method", ["implicit_euler", "radauIIA3", "radauIIA5", "gl4", "gl6", "sdirk2", "trbdf2"])
def test_implicit_methods_in_single_precision_go_back(method: str, dtype: torch.dtype) -> None:
    """Newton's iteration ends where rounding alone moves it, far above what its tolerance asks for."""
    y0 = torch.tensor([1.0, 2.0], dtype=dtype, requires_grad=True)
    y = torchdiffeq.odeint_adjoint(decay, y0, UNIT, adjoint_params=(), method=method, options={"step_size": 0.5})
    (grad,) = torch.autograd.grad(y[-1].abs().sum(), y0)
    close(grad.real, [math.exp(-1)] * 2, tol=0.1)


class Flow(nn.Module):
    """A continuous normalising flow as FFJORD builds it: brute-force divergence, a learned end time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(2, 16), nn.Softplus(), nn.Linear(16, 2))
        self.sqrt_end_time = nn.Parameter(torch.tensor(0.7))
        self.evaluations = 0

    def forward(self, t: Tensor, states: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        self.evaluations += 1
        y = states[0]
        with torch.enable_grad():
            y.requires_grad_(True)
            dy = self.net(y)
            columns = [torch.autograd.grad(dy[:, i].sum(), y, create_graph=True)[0][:, i] for i in range(2)]
        return dy, -sum(columns).reshape(-1, 1)

    def log_density(self, x: Tensor) -> Tensor:
        times = torch.stack([torch.zeros(()), self.sqrt_end_time**2])
        z, delta = torchdiffeq.odeint_adjoint(
            self, (x, torch.zeros(len(x), 1)), times, atol=[1e-5, 1e-5], rtol=[1e-5, 1e-5], method="dopri5", options={}
        )
        normal = -0.5 * (z[-1] ** 2).sum(1, keepdim=True) - math.log(2 * math.pi)
        return normal - delta[-1]


def test_a_flow_trains_as_in_ffjord() -> None:
    flow = Flow()
    x = 0.3 * torch.randn(64, 2, generator=torch.Generator().manual_seed(1)) + 1
    optimiser = torch.optim.Adam(flow.parameters(), lr=0.03)
    losses = []
    for _ in range(12):
        optimiser.zero_grad()
        loss = -flow.log_density(x).mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert flow.sqrt_end_time.grad is not None
    assert flow.sqrt_end_time.grad != 0
    assert losses[-1] < losses[0] - 0.5


# Events


def falling(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[1], torch.full_like(y[1], -10.0)])


@pytest.mark.parametrize("adjoint", [False, True])
def test_an_event_and_its_gradients(adjoint: bool) -> None:
    """A ball thrown up from height h with speed v lands on a floor at height c after (v + √(v² + 20(h - c)))/10."""
    y0 = torch.tensor([2.0, 3.0], dtype=DOUBLE, requires_grad=True)
    floor = torch.tensor(0.5, dtype=DOUBLE, requires_grad=True)
    t0 = torch.tensor(1.0, dtype=DOUBLE, requires_grad=True)
    interface = functools.partial(torchdiffeq.odeint_adjoint, adjoint_params=()) if adjoint else torchdiffeq.odeint
    t, states = torchdiffeq.odeint_event(
        falling, y0, t0, event_fn=lambda t, y: y[0] - floor, odeint_interface=interface
    )
    h, v, c = (x.detach().clone().requires_grad_() for x in (*y0, floor))
    speed = (v**2 + 20 * (h - c)).sqrt()
    expected = torch.stack([1 + (v + speed) / 10, -speed])
    found = torch.stack([t, states[1, 1]])
    assert states.shape == (2, 2)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=0)
    for k in range(2):
        by_y0, by_floor, by_t0 = torch.autograd.grad(found[k], [y0, floor, t0], retain_graph=True)
        truth = torch.autograd.grad(expected[k], [h, v, c], retain_graph=True)
        torch.testing.assert_close(torch.stack([*by_y0, by_floor]), torch.stack(truth), rtol=1e-5, atol=1e-7)
        close(by_t0, 1.0 if k == 0 else 0.0, tol=1e-5)


@pytest.mark.parametrize("interp", ["linear", "cubic"])
@pytest.mark.parametrize("method", ["euler", "rk4"])
def test_on_a_grid_an_event_has_the_gradient_of_the_numbers(method: str, interp: str) -> None:
    def landing(height: Tensor) -> Tensor:
        y0 = torch.stack([height, torch.ones_like(height)])
        t, states = torchdiffeq.odeint_event(
            lambda t, y: torch.stack([y[1], -10 - 0.3 * y[1]]), y0, torch.zeros(1, dtype=DOUBLE),
            event_fn=lambda t, y: y[0], method=method, options={"step_size": 0.1, "interp": interp},
        )  # fmt: skip
        return torch.stack([t, states[1, 1]])

    height = torch.tensor(2.0, dtype=DOUBLE)
    found = torch.autograd.functional.jacobian(landing, height)
    expected = (landing(height + 1e-5) - landing(height - 1e-5)) / 2e-5
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("method", ["dopri5", "rk4", "implicit_midpoint"])
def test_events_backwards_in_time_and_the_first_of_several(method: str) -> None:
    options = {} if method == "dopri5" else {"step_size": 0.01}
    t, (start, end) = torchdiffeq.odeint_event(
        decay, torch.ones(2, dtype=DOUBLE), torch.tensor(0.0, dtype=DOUBLE), reverse_time=True, method=method,
        event_fn=lambda t, y: torch.stack([t + 5, y[0] - 2, 3 - y[1]]), options=options,
    )  # fmt: skip
    close(t, -math.log(2), tol=1e-4)
    close(end, [2.0, 2.0], tol=1e-4)
    close(start, [1.0, 1.0])


def test_an_event_of_a_tuple_state() -> None:
    y0 = torch.ones(2, dtype=DOUBLE), torch.zeros((), dtype=DOUBLE)
    t, (y, clock) = torchdiffeq.odeint(
        lambda t, y: (-y[0], torch.ones_like(y[1])), y0, UNIT, event_fn=lambda t, y: y[1] - 1.5
    )
    assert (y.shape, clock.shape) == ((2, 2), (2,))
    close(t, 1.5)
    close(clock, [0.0, 1.5])


def test_a_start_on_the_surface_is_no_event() -> None:
    y0 = torch.tensor([0.0, 3.0], dtype=DOUBLE)
    t, _ = torchdiffeq.odeint(falling, y0, UNIT, event_fn=lambda t, y: y[0])
    close(t, 0.6)


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_a_jump_of_an_event_function_to_zero_ends_the_solve_there(adjoint: bool, several: bool) -> None:
    """A limit in time that programs write into their event function."""

    def event_fn(t: Tensor, y: Tensor) -> Tensor:
        height = torch.zeros_like(y[0]) if t > 0.7 else y[0] + 100
        return torch.stack([height, y[1] + 100]) if several else height

    y0 = torch.tensor([2.0, 3.0], dtype=DOUBLE, requires_grad=True)
    interface = functools.partial(torchdiffeq.odeint_adjoint, adjoint_params=()) if adjoint else torchdiffeq.odeint
    t, states = torchdiffeq.odeint_event(
        falling, y0, torch.tensor(0.0, dtype=DOUBLE), event_fn=event_fn, odeint_interface=interface
    )
    close(t, 0.7)
    close(torch.autograd.grad(states[1, 0], y0)[0], [1.0, 0.7], tol=1e-5)


def test_an_event_at_an_exact_zero_has_its_gradient() -> None:
    """dy/dt = 1 meets y = 1 at t = 1 - y0, to the last bit."""
    for interface in (torchdiffeq.odeint, functools.partial(torchdiffeq.odeint_adjoint, adjoint_params=())):
        y0 = torch.zeros(1, dtype=DOUBLE, requires_grad=True)
        t, _ = torchdiffeq.odeint_event(
            lambda t, y: torch.ones_like(y), y0, torch.tensor(0.0, dtype=DOUBLE), odeint_interface=interface,
            event_fn=lambda t, y: torch.cat([y - 1, y + 5]),
        )  # fmt: skip
        close(torch.autograd.grad(t, y0)[0], [-1.0])


def test_an_event_that_does_not_happen_ends() -> None:
    with pytest.raises(AssertionError, match="max_num_steps"):
        torchdiffeq.odeint(
            lambda t, y: torch.sin(t) * y, torch.ones(1), UNIT, event_fn=lambda t, y: y.sum() + 1,
            options={"max_num_steps": 50},
        )  # fmt: skip


# Dense output


@pytest.mark.parametrize("method", ["dopri5", "dopri8", "bosh3", "tsit5"])
@pytest.mark.parametrize("backwards", [False, True])
def test_dense_output(method: str, backwards: bool) -> None:
    ends = (1.0, 0.0) if backwards else (0.0, 1.0)
    y0 = torch.tensor([1.0, 2.0], dtype=DOUBLE) * math.exp(-ends[0])
    solution = torchdiffeq.odeint_dense(decay, y0, *map(torch.tensor, ends), method=method)
    close(solution(torch.tensor(0.3)), [math.exp(-0.3), 2 * math.exp(-0.3)], tol=1e-5)
    many = solution(torch.tensor([0.9, 0.1, 0.5]))
    assert many.shape == (3, 2)
    close(many[:, 0], [math.exp(-0.9), math.exp(-0.1), math.exp(-0.5)], tol=1e-5)


def test_dense_output_of_a_tuple_on_a_grid() -> None:
    y0 = torch.ones(2, dtype=DOUBLE), torch.zeros(1, dtype=DOUBLE)
    solution = torchdiffeq.odeint_dense(
        lambda t, y: (-y[0], y[0][:1]), y0, torch.tensor(0.0), torch.tensor(1.0), method="rk4",
        options={"step_size": 0.1},
    )  # fmt: skip
    y, integral = solution(0.55)
    close(y, [math.exp(-0.55)] * 2, tol=1e-5)
    close(integral, [1 - math.exp(-0.55)], tol=1e-5)
    with pytest.raises(ValueError, match="dense output"):
        torchdiffeq.odeint_dense(decay, torch.ones(1), 0.0, 1.0, method="scipy_solver")
