"""Forward sensitivities: the numbers of `direct` without anything left to be done backwards."""

from __future__ import annotations

import math
from typing import Any

import optree
import pytest
import torch
from as_direct import assert_as_direct, driven, seeded
from problems import ADAPTIVE, DOUBLE, IMPLICIT, SOLVERS, Counted
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from odekit import Event, Status, solve
from odekit.errors import GradientError, InputError
from odekit.gradients import Forward

QUICK = ["dopri5", "bdf"]
"""The solvers that the default run looks at; the slow one looks at all."""

# The numbers


@pytest.mark.parametrize(
    ("solver", "adaptive"),
    [
        pytest.param(name, adaptive, marks=() if name in QUICK else pytest.mark.slow)
        for names, adaptive in ((SOLVERS, False), (ADAPTIVE, True))
        for name in names
    ],
)
def test_it_is_direct_to_rounding(solver: str, adaptive: bool) -> None:
    """Forwards, and backwards with the times differentiated as well, with outputs between steps."""
    options = {"rtol": 1e-2, "atol": 1e-3} if adaptive else {"step_size": 0.3}
    y0 = (0.5 * seeded(2, 2)).requires_grad_()
    weight, shift = (0.7 * seeded(2, 2, seed=1)).requires_grad_(), seeded(2, seed=2).requires_grad_()
    options |= {"solver": solver, "args": (weight, shift)}
    assert_as_direct("forward", driven, y0, [0.0, 0.11, 0.5, 0.5, 0.9], [y0, weight, shift], digits=1e-10, **options)
    times = torch.tensor([0.9, 0.6, 0.3, 0.3, 0.0], dtype=DOUBLE, requires_grad=True)
    digits = 1e-7 if solver in IMPLICIT else 1e-9
    assert_as_direct("forward", driven, y0, times, [y0, weight, shift, times], digits, **options)


@pytest.mark.parametrize(
    "solver",
    [
        "bdf",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("rodas5p", "adams_bashforth_moulton", "auto_tsit5")),
    ],
)
def test_solvers_with_a_memory_over_jumps_and_forced_ends(solver: str) -> None:
    weight, y0 = seeded(2, 2, seed=1).requires_grad_(), (0.5 * seeded(1, 2)).requires_grad_()

    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(y @ weight) if t < 0.5 else -y @ weight

    options: dict[str, Any] = {"jump_times": [0.5], "step_times": [0.2, 0.8], "rtol": 1e-3, "solver": solver}
    assert_as_direct("forward", f, y0, [0.0, 0.4, 0.6, 1.0], [y0, weight], digits=1e-9, **options)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["heun", "dopri5"])
def test_gradcheck_and_gradgradcheck(solver: str) -> None:
    def outputs(y0: Tensor, weight: Tensor, shift: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        options = {"solver": solver, "gradient": "forward", "step_size": 1.0}
        solution = solve(driven, y0, times, args=(weight, shift), **options)
        return solution.ys, solution.y1

    times = torch.tensor([0.0, 0.35, 0.9], dtype=DOUBLE)
    inputs = [0.5 * seeded(1, 2), 0.5 * seeded(2, 2, seed=1), seeded(2, seed=2), times]
    inputs = [x.requires_grad_() for x in inputs]
    assert gradcheck(outputs, inputs, rtol=1e-4, atol=1e-6)
    assert gradgradcheck(outputs, inputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("solver", ["heun", pytest.param("kvaerno3", marks=pytest.mark.slow)])
def test_other_dtypes(solver: str, dtype: torch.dtype) -> None:
    """With a complex state, y0 and a complex parameter have two directions a number, a real parameter has one."""

    def f(t: Tensor, y: Tensor, rate: Tensor, damping: Tensor) -> Tensor:
        return rate * y - damping * y**2 * t

    y0 = seeded(2, 2, dtype=dtype).requires_grad_()
    rate = torch.tensor(-0.5 + 1j if dtype.is_complex else -0.5, dtype=dtype, requires_grad=True)
    damping = torch.tensor(0.1, dtype=dtype.to_real(), requires_grad=True)
    digits = 1e-10 if dtype is torch.complex128 else 1e-3
    options: dict[str, Any] = {"solver": solver, "args": (rate, damping), "step_size": 0.23}
    assert_as_direct("forward", f, y0, [0.0, 0.4, 1.0], [y0, rate, damping], digits, **options)


def test_a_complex_field_that_is_not_holomorphic() -> None:
    y0 = seeded(3, dtype=torch.complex128).requires_grad_()
    rate = torch.tensor(0.3 - 0.2j, dtype=torch.complex128, requires_grad=True)
    assert_as_direct("forward", lambda t, y: rate * y.conj() * y.abs(), y0, [0.0, 1.0], [y0, rate], digits=1e-10)


def test_nested_states() -> None:
    y0 = {"a": seeded(3).requires_grad_(), "b": (seeded(2, 2).requires_grad_(), seeded().requires_grad_())}
    rate = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)

    def f(t: Tensor, y: Any) -> Any:
        mean = sum(leaf.mean() for leaf in optree.tree_leaves(y))
        return optree.tree_map(lambda leaf: torch.sin(leaf) * rate - leaf * mean**2, y)

    assert_as_direct("forward", f, y0, [0.0, 0.3, 1.0], [*optree.tree_leaves(y0), rate], digits=1e-10)


@pytest.mark.parametrize("t", [[0.5], [0.5, 0.5], [0.5, 0.5, 0.5]], ids=str)
def test_a_span_of_nothing(t: list[float]) -> None:
    y0, times = seeded(3, 2).requires_grad_(), torch.tensor(t, dtype=DOUBLE, requires_grad=True)
    weight = seeded(2, 2, seed=1)
    wrt = [y0] if len(t) == 1 else [y0, times]
    assert_as_direct("forward", driven, y0, times, wrt, args=(weight, seeded(2, seed=2)))


def test_many_output_times_cost_no_more_than_one() -> None:
    """y = y0 exp(-t): ∂y/∂t = -y at each output's own time, of which there are many more than directions."""
    times = torch.linspace(0, 1, 12, dtype=DOUBLE).requires_grad_()
    y0 = torch.ones(1, dtype=DOUBLE, requires_grad=True)
    options: dict[str, Any] = {"solver": "dopri5", "step_size": 0.125}
    ys = solve(lambda t, y: -y, y0, times, gradient=Forward(max_directions=4), **options).ys
    weights = seeded(12)
    (grad,) = torch.autograd.grad((weights * ys[:, 0]).sum(), times)
    own = -weights * ys[:, 0].detach()
    own[0] = -own[1:].sum()
    torch.testing.assert_close(grad, own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 4])
def test_directions_in_chunks(chunk: int) -> None:
    y0, weight = (0.5 * seeded(3, 2)).requires_grad_(), (0.7 * seeded(2, 2, seed=1)).requires_grad_()
    options: dict[str, Any] = {"args": (weight, seeded(2, seed=2)), "solver": "rk4", "step_size": 0.25}
    assert_as_direct(Forward(chunk=chunk), driven, y0, [0.0, 0.3, 1.0], [y0, weight], **options)


# Events and rows


@pytest.mark.parametrize("batch", ["shared", "rows"])
def test_bounces_and_the_time_of_an_event(batch: str) -> None:
    """A ball falls from height h: it is at the ground for the second time after (1 + 2 e) √(2 h / g)."""
    height = torch.tensor([1.0, 1.1], dtype=DOUBLE, requires_grad=True)
    gravity = torch.tensor(9.0, dtype=DOUBLE, requires_grad=True)
    bounce = Event(
        lambda t, y, g: y[..., 0].flatten() if batch == "rows" else y[0],
        direction=-1,
        jump=lambda t, y, g: torch.stack([y[..., 0], -0.5 * y[..., 1]], -1),
    )
    y0 = torch.stack([height, torch.zeros_like(height)], -1)
    solution = solve(
        lambda t, y, g: torch.stack([y[..., 1], -g.expand_as(y[..., 1])], -1), y0 if batch == "rows" else y0[0],
        [0.0, 1.1], args=(gravity,), events=bounce, gradient="forward", solver="bosh3", batch=batch,
    )  # fmt: skip
    second = solution.events[0].ts[..., 1]
    by_height, by_gravity = torch.autograd.grad(second.sum(), [height, gravity])
    fall = (2 * height.detach() / 9).sqrt() * 2
    fall = fall if batch == "rows" else fall[:1]
    torch.testing.assert_close(second.detach().reshape(-1), fall, rtol=1e-6, atol=0)
    torch.testing.assert_close(by_height[: len(fall)], fall / (2 * height.detach()[: len(fall)]), rtol=1e-5, atol=0)
    assert float(by_gravity) == pytest.approx(-float(fall.sum()) / 18, rel=1e-5)


@pytest.mark.parametrize("solver", ["dopri5", pytest.param("kvaerno3", marks=pytest.mark.slow)])
def test_rows_on_their_own_steps(solver: str) -> None:
    y0, weight = (0.5 * seeded(3, 2)).requires_grad_(), (0.7 * seeded(2, 2, seed=1)).requires_grad_()
    t = torch.tensor([[0.0, 0.3, 1.0], [0.5, 0.2, -0.4], [0.1, 0.1, 0.1]], dtype=DOUBLE, requires_grad=True)
    options: dict[str, Any] = {"args": (weight, seeded(2, seed=2)), "batch": "rows", "solver": solver, "rtol": 1e-4}
    assert_as_direct("forward", driven, y0, t, [y0, weight, t], digits=1e-6, **options)
    with torch.no_grad():
        plain = solve(driven, y0, t, gradient="forward", **options).ys
    torch.testing.assert_close(plain, solve(driven, y0, t, **options).ys.detach(), rtol=1e-9, atol=0)


# What f may be


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


def test_shared_frozen_and_unused_parameters() -> None:
    f = Net()
    wrt = [*f.inner.parameters(), *f.unused.parameters()]
    assert_as_direct("forward", f, seeded(3, 2), [0.0, 0.4, 1.0], wrt, digits=1e-10)


def test_one_tensor_in_all_roles() -> None:
    """As the initial state, in args, captured, and as what a captured tensor was computed from."""
    leaf = (0.3 * seeded(2)).requires_grad_()
    found = []
    for gradient in ("direct", "forward"):
        computed = leaf.sin()
        y1 = solve(lambda t, y, w, c=computed: c - w * y + leaf, leaf, [0.0, 1.0], args=(leaf,), gradient=gradient).y1
        found.append(torch.autograd.grad(y1.square().sum(), leaf)[0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=0)


def test_what_f_holds_still_is_held_still() -> None:
    """By an island without gradients, by detach and by .data, of the state and of a parameter."""
    weight, y0 = seeded(2, 2, seed=1).requires_grad_(), seeded(2, 2).requires_grad_()

    def f(t: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            scale = 1 + (y @ weight).square().mean()
        return torch.tanh(y @ weight) / scale - y.detach() * weight.detach().mean() + 0.1 * y * weight.data.sum()

    assert_as_direct("forward", f, y0, [0.0, 0.4, 1.0], [y0, weight], digits=1e-10)


def test_buffers_filled_in_place() -> None:
    def f(t: Tensor, y: Tensor) -> Tensor:
        dy = torch.empty_like(y)
        dy[0] = weight * y[1]
        dy[1] = -y[0]
        return dy

    weight, y0 = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True), seeded(2).requires_grad_()
    assert_as_direct("forward", f, y0, [0.0, 1.0], [y0, weight], digits=1e-10)


class _NoJvp(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 3 * grad


def _differentiates(t: Tensor, y: Tensor) -> Tensor:
    with torch.enable_grad():
        y = y if y.requires_grad else y.detach().requires_grad_()
        return torch.autograd.grad((y**3).sum(), y, create_graph=True)[0]


@pytest.mark.parametrize(
    "f",
    [_differentiates, lambda t, y: _NoJvp.apply(y), lambda t, y: y * torch.rand_like(y)],
    ids=["autograd", "function", "random"],
)
def test_an_f_without_forward_mode_is_an_error(f: Any) -> None:
    with pytest.raises(GradientError, match=r"forward mode.*Use gradient='checkpointed'"):
        solve(f, seeded(2).requires_grad_(), [0.0, 0.1], gradient="forward", solver="rk4", step_size=0.1)


def test_too_many_directions_are_an_error_that_says_how_many() -> None:
    net = nn.Linear(40, 40).double()
    with pytest.raises(GradientError, match=r"1645 derivatives .*\(5 numbers in y0, 1640 in .*max_directions=1645"):
        solve(
            lambda t, y: net.weight[:5, :5] @ y + net.bias[:5],
            seeded(5).requires_grad_(),
            [0.0, 1.0],
            gradient="forward",
        )
    for options in ({"max_directions": 0}, {"chunk": 1.5}, {"chunk": True}):
        with pytest.raises(InputError, match="expected an integer >= 1"):
            Forward(**options)


def test_a_tensor_that_cannot_be_found_is_an_error() -> None:
    weight = torch.ones((), dtype=DOUBLE, requires_grad=True)
    hidden = {"lookup": lambda: weight}

    class Hiding:
        __slots__ = ()

        def __call__(self, t: Tensor, y: Tensor) -> Tensor:
            return -y if t < 0.5 else hidden["lookup"]() * y

    with pytest.raises(GradientError, match="gradient='forward' did not find"):
        solve(Hiding(), seeded(2).requires_grad_(), [0.0, 1.0], gradient="forward")


# Costs and ends


def test_backward_is_a_contraction_that_calls_nothing() -> None:
    """And rejected steps are not differentiated: two calls an accepted step for Heun's method."""
    weight = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)
    f = Counted(lambda t, y: -weight * y)
    solution = solve(f, seeded(3), [0.0, 1.0], gradient="forward", solver="heun", first_step=2.0, rtol=1e-4)
    calls = f.calls
    assert solution.stats.rejected > 0
    assert calls <= 2 + 2 * solution.stats.steps + 2 * solution.stats.accepted + 1
    assert calls == solution.stats.nfe
    loss = solution.y1.square().sum()
    first = torch.autograd.grad(loss, weight, retain_graph=True)
    assert torch.equal(torch.autograd.grad(loss, weight)[0], first[0])
    assert f.calls == calls


def test_nothing_is_followed_where_nothing_is_wanted() -> None:
    f = Counted(lambda t, y: -y)
    solution = solve(f, seeded(3), [0.0, 1.0], gradient="forward", solver="rk4", step_size=0.25)
    assert not solution.ys.requires_grad
    assert f.calls == 16


@pytest.mark.parametrize("t", [[0.0, 0.5, 0.55, 1.5], [0.0, 1.5]], ids=str)
def test_a_failed_solve_keeps_the_gradient_of_what_was_reached(t: list[float]) -> None:
    """y' = y² from 1: y = 1/(1 - t)."""
    y0 = torch.tensor([1.0], dtype=DOUBLE, requires_grad=True)
    options: dict[str, Any] = {"solver": "rk4", "step_size": 0.1, "throw": False}
    solution = solve(lambda t, y: y**2, y0, t, gradient="forward", **options)
    assert solution.status is Status.NON_FINITE
    (grad,) = torch.autograd.grad(solution.y1.sum() + solution.ys[-2].sum(), y0)
    assert float(grad) == pytest.approx(2 / (1 - t[-2]) ** 2, rel=2e-2)
    assert math.isfinite(float(grad))
