"""``direct`` inside functions that torch.func transforms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from problems import DOUBLE, close
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap

import odekit
from odekit.core import lanes
from odekit.errors import GradientError, InputError, SolveError
from odekit.solving import solver_named

TURN = torch.tensor([[-0.3, 1.0], [-1.0, -0.2]], dtype=DOUBLE)
START = torch.tensor([1.0, 0.5], dtype=DOUBLE)
RATE = torch.tensor(0.7, dtype=DOUBLE)
STARTS = torch.tensor([[1.0, 0.5], [-2.0, 0.1], [0.3, 3.0]], dtype=DOUBLE)
RATES = torch.tensor([0.2, 0.7, 1.5], dtype=DOUBLE)
FIXED = {"solver": "rk4", "step_size": 0.05}
ADAPTIVE = {"solver": "dopri5", "rtol": 1e-9, "atol": 1e-11}
STIFF = {"solver": "kvaerno5", "step_size": 0.2}
OPTIONS = [FIXED, ADAPTIVE]

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # of PyTorch's own making

siblings = ["trbdf2", "radau5", "rodas5p", "bdf", "auto_tsit5", "tsit5", "adams_bashforth_moulton", "bosh3", "gauss4"]


def linear(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
    return rate * (TURN @ y)


def bent(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
    return rate * torch.sin(y.flip(-1) + t) - 0.5 * y


def end(y0: Any, rate: Any, f: Any = bent, t: Any = (0.0, 0.6, 1.0), **options: Any) -> Tensor:
    return odekit.solve(f, y0, t if isinstance(t, Tensor) else list(t), args=(rate,), **(options or ADAPTIVE)).y1


def exact(y0: Tensor, rate: Tensor) -> Tensor:
    return torch.linalg.matrix_exp(rate * TURN) @ y0


def loss(y0: Tensor, rate: Tensor, **options: Any) -> Tensor:
    return (end(y0, rate, linear, **options) ** 2).sum()


def exact_loss(y0: Tensor, rate: Tensor) -> Tensor:
    return (exact(y0, rate) ** 2).sum()


@pytest.mark.parametrize("options", [*OPTIONS, STIFF], ids=lambda o: o["solver"])
def test_first_derivatives_are_those_of_the_matrix_exponential(options):
    by_both = grad(lambda y, r: loss(y, r, **options), (0, 1))(START, RATE)
    for found, expected in zip(by_both, grad(exact_loss, (0, 1))(START, RATE), strict=True):
        close(found, expected, 1e-6)
    along = (torch.tensor([0.3, -1.0], dtype=DOUBLE), torch.tensor(2.0, dtype=DOUBLE))
    found = jvp(lambda y, r: end(y, r, linear, **options), (START, RATE), along)
    expected = jvp(exact, (START, RATE), along)
    close(found[1], expected[1], 1e-6)
    pulled = vjp(lambda y, r: end(y, r, linear, **options), START, RATE)[1](START)
    for one, other in zip(pulled, vjp(exact, START, RATE)[1](START), strict=True):
        close(one, other, 1e-6)
    for jacobian in (jacrev, jacfwd):
        close(jacobian(lambda y: end(y, RATE, linear, **options))(START), torch.linalg.matrix_exp(RATE * TURN), 1e-6)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: o["solver"])
def test_second_derivatives_are_those_of_the_matrix_exponential(options):
    close(hessian(lambda y: loss(y, RATE, **options))(START), hessian(lambda y: exact_loss(y, RATE))(START), 1e-6)
    close(hessian(lambda r: loss(START, r, **options))(RATE), hessian(lambda r: exact_loss(START, r))(RATE), 1e-6)


def test_second_derivatives_of_implicit_steps_are_refused_inside_and_outside_of_lanes():
    with pytest.raises(GradientError, match="cannot be differentiated again"):
        hessian(lambda y: loss(y, RATE, **STIFF))(START)

    def total(starts: Tensor) -> Tensor:
        return vmap(lambda y: loss(y, RATE, **STIFF))(starts).sum()

    with pytest.raises(GradientError, match="cannot be differentiated again"):
        grad(lambda starts: grad(total)(starts).sum())(STARTS)


def test_second_derivatives_of_implicit_steps_that_are_made_for_them():
    options = {**STIFF, "solver": solver_named(STIFF["solver"]).differentiable(2)}
    close(hessian(lambda y: loss(y, RATE, **options))(START), hessian(lambda y: exact_loss(y, RATE))(START), 1e-5)


@pytest.mark.parametrize("options", [*OPTIONS, STIFF], ids=lambda o: o["solver"])
def test_lanes_over_states_and_arguments_equal_a_loop(options):
    tol = 1e-12 if options is FIXED else 1e-6
    both = vmap(lambda y, r: end(y, r, **options))(STARTS, RATES)
    close(both, torch.stack([end(y, r, **options) for y, r in zip(STARTS, RATES, strict=True)]), tol)
    close(vmap(lambda r: end(START, r, **options))(RATES), torch.stack([end(START, r, **options) for r in RATES]), tol)
    inner = vmap(lambda y: vmap(lambda r: end(y, r, **options))(RATES), in_dims=1, out_dims=2)(STARTS[:2])
    assert inner.shape == (3, 2, 2)
    close(inner[1, :, 0], end(STARTS[:2, 0], RATES[1], **options), tol)


@pytest.mark.parametrize("options", [*OPTIONS, pytest.param(STIFF, marks=pytest.mark.slow)], ids=lambda o: o["solver"])
def test_gradients_of_lanes_and_lanes_of_gradients_equal_a_loop(options):
    tol = 1e-12 if options is FIXED else 1e-6

    def one(y: Tensor, r: Tensor) -> Tensor:
        return (end(y, r, **options) ** 3).sum()

    alone = [grad(one, (0, 1))(y, r) for y, r in zip(STARTS, RATES, strict=True)]
    by_lane = vmap(grad(one, (0, 1)))(STARTS, RATES)
    of_all = grad(lambda y, r: vmap(one)(y, r).sum(), (0, 1))(STARTS, RATES)
    for found in (by_lane, of_all):
        close(found[0], torch.stack([by_y for by_y, _ in alone]), tol)
        close(found[1], torch.stack([by_r for _, by_r in alone]), tol)
    starts = STARTS.clone().requires_grad_()
    vmap(one)(starts, RATES).sum().backward()
    close(starts.grad, of_all[0], 1e-12)
    pushed = jvp(lambda y: vmap(one)(y, RATES), (STARTS,), (torch.ones_like(STARTS),))[1]
    close(pushed, of_all[0].sum(1), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("solver", siblings)
def test_every_kind_of_solver_has_lanes(solver):
    options = {"solver": solver, "rtol": 1e-7, "atol": 1e-9}

    def one(y: Tensor, r: Tensor) -> Tensor:
        return end(y, r, **options).sum()

    found = vmap(grad(one, (0, 1)))(STARTS, RATES)
    alone = [grad(one, (0, 1))(y, r) for y, r in zip(STARTS, RATES, strict=True)]
    close(found[0], torch.stack([by_y for by_y, _ in alone]), 1e-4)
    close(found[1], torch.stack([by_r for _, by_r in alone]), 1e-4)


def test_lanes_share_steps_that_are_short_enough_for_the_worst_of_them():
    rates = torch.tensor([1e-3, 40.0], dtype=DOUBLE)
    counts = []

    def one(r: Tensor) -> Tensor:
        solution = odekit.solve(lambda t, y, r: -r * y, START, [0.0, 1.0], args=(r,), rtol=1e-6, atol=1e-9)
        counts.append((solution.stats.accepted, solution.stats.nfe))
        return solution.y1

    found = vmap(one)(rates)
    close(found, torch.exp(-rates)[:, None] * START, 1e-7)
    together = counts.pop()
    for r in rates:
        one(r)
    assert together[0] >= counts[1][0] > counts[0][0]
    assert together[0] <= counts[1][0] + 3


def test_an_ensemble_of_modules_is_one_solve():
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 2)).double() for _ in range(3)]
    params, buffers = stack_module_state(nets)

    def one(params: Any, buffers: Any) -> Tensor:
        def f(t: Tensor, y: Tensor) -> Tensor:
            return functional_call(nets[0], (params, buffers), (y,))

        return odekit.solve(f, START, [0.0, 1.0], **ADAPTIVE).y1

    found = vmap(one)(params, buffers)
    alone = torch.stack([odekit.solve(lambda t, y, n=n: n(y), START, [0.0, 1.0], **ADAPTIVE).y1 for n in nets])
    close(found, alone, 1e-8)
    grads = grad(lambda params: vmap(one)(params, buffers).sum())(params)
    alone.sum().backward()
    close(grads["0.weight"], torch.stack([n[0].weight.grad for n in nets]), 1e-7)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: o["solver"])
def test_lanes_over_times_equal_a_loop(options):
    spans = torch.tensor([[0.0, 1.0], [0.5, 0.7], [1.0, -0.5], [2.0, 2.0]], dtype=DOUBLE)
    spans = torch.stack([spans[:, 0], spans[:, 0] + 0.25 * (spans[:, 1] - spans[:, 0]), spans[:, 1]], 1)
    ends = spans[:, ::2]
    found = vmap(lambda t: end(START, RATE, t=t, **options))(ends)
    close(found, torch.stack([end(START, RATE, t=t, rtol=1e-10, atol=1e-12) for t in ends]), 1e-7)
    found = vmap(lambda t: odekit.solve(bent, START, t, args=(RATE,), **options).ys)(spans[:3])
    alone = [odekit.solve(bent, START, t, args=(RATE,), rtol=1e-10, atol=1e-12).ys for t in spans[:3]]
    close(found, torch.stack(alone), 1e-6)
    by_time = vmap(grad(lambda t: end(START, RATE, t=t, **options).sum()))(ends[:3])
    slopes = [bent(t[1], y, RATE).sum() for t, y in zip(ends[:3], found[:, -1], strict=True)]
    close(by_time[:, 1], torch.stack(slopes), 1e-5)


def test_f_is_never_asked_outside_of_a_lane_s_own_span():
    spans = torch.tensor([[0.0, 1.0], [0.5, 0.7], [3.0, 2.0]], dtype=DOUBLE)
    seen = []

    def f(t: Tensor, y: Tensor) -> Tensor:
        seen.append(lanes.laid_open(t))
        return torch.cos(5 * t) * y

    vmap(lambda t: odekit.solve(f, START, t, rtol=1e-6, atol=1e-8).y1)(spans)
    asked = torch.stack(seen)
    assert asked.shape[1] == 3
    assert bool((asked >= spans.amin(1) - 1e-12).all() and (asked <= spans.amax(1) + 1e-12).all())


def test_times_that_are_spread_differently_are_refused():
    times = torch.tensor([[0.0, 0.5, 1.0], [0.0, 0.6, 1.0]], dtype=DOUBLE)
    with pytest.raises(InputError, match="stretched and shifted"):
        vmap(lambda t: end(START, RATE, t=t))(times)
    with pytest.raises(InputError, match="jump_times"):
        vmap(lambda t: odekit.solve(bent, START, t, args=(RATE,), jump_times=[0.5]).y1)(times[:, ::2])
    with pytest.raises(GradientError, match="times and step sizes"):
        vmap(lambda t: end(START, RATE, t=t, **STIFF))(times[:, ::2] + torch.tensor([[0.0, 0.0], [0.0, 1.0]]))


def test_what_else_a_solution_has_where_times_differ():
    spans = torch.tensor([[0.0, 1.0], [0.5, 0.7]], dtype=DOUBLE)
    close(vmap(lambda t: odekit.solve(bent, START, t, args=(RATE,)).t1)(spans), spans[:, 1], 1e-15)
    with pytest.raises(GradientError, match="between which there is something to interpolate"):
        vmap(lambda t: odekit.solve(bent, START, t, args=(RATE,)).interpolate(0.6))(spans)
    found = vmap(lambda y: odekit.solve(bent, y, [0.0, 1.0], args=(RATE,), **ADAPTIVE).interpolate(0.6))(STARTS)
    close(found, torch.stack([end(y, RATE, t=(0.0, 0.6)) for y in STARTS]), 1e-6)


def test_forward_mode_through_times():
    times = torch.tensor([0.0, 0.3, 1.0], dtype=DOUBLE)
    along = torch.tensor([0.0, 1.0, -2.0], dtype=DOUBLE)
    ys, pushed = jvp(lambda t: odekit.solve(bent, START, t, args=(RATE,), **ADAPTIVE).ys, (times,), (along,))
    slopes = torch.stack([bent(t, y, RATE) for t, y in zip(times, ys, strict=True)])
    close(pushed[1:], slopes[1:] * along[1:, None], 1e-6)


def test_nested_and_complex_states_have_lanes():
    def one(y: Any) -> Tensor:
        state = odekit.solve(lambda t, y: {"a": 1j * y["b"], "b": -y["a"]}, y, [0.0, 1.0], **ADAPTIVE).y1
        return state["a"] + state["b"]

    a = STARTS.to(torch.complex128)
    y0 = {"a": a, "b": a.flip(-1) * 1j}
    found = vmap(one)(y0)
    close(found, torch.stack([one({"a": y0["a"][k], "b": y0["b"][k]}) for k in range(3)]), 1e-7)


def test_single_precision_stays_single():
    found = vmap(lambda y: odekit.solve(lambda t, y: -y * t, y, [0.0, 1.0]).y1)(STARTS.float())
    assert found.dtype == torch.float32
    close(found, STARTS.float() * math.exp(-0.5), 1e-4)


@pytest.mark.parametrize("transform", ["grad", "jvp"])
def test_the_time_of_an_event_inside_a_transform(transform):
    def when(y0: Tensor) -> Tensor:
        solution = odekit.solve(
            lambda t, y: -y, y0, [0.0, math.inf], events=odekit.Event(lambda t, y: y[0] - 0.5), **ADAPTIVE
        )
        return solution.events[0].ts[0]

    if transform == "grad":
        close(grad(when)(START), [1.0, 0.0], 1e-6)
    else:
        close(jvp(when, (START,), (torch.ones_like(START),))[1], 1.0, 1e-6)


def test_events_that_differ_between_lanes_are_refused():
    events = odekit.Event(lambda t, y: y[0] - 0.5)
    with pytest.raises(GradientError, match="when an event happens"):
        vmap(lambda y: odekit.solve(lambda t, y: -y, y, [0.0, 9.0], events=events).y1)(STARTS.abs() + 1)


def test_one_bad_lane_fails_the_solve():
    bad = torch.tensor([1.0, math.nan, 2.0], dtype=DOUBLE)
    for options in OPTIONS:
        with pytest.raises(SolveError, match="NaN"):
            vmap(lambda r, o=options: end(START, r, **o))(bad)


@pytest.mark.parametrize("gradient", ["checkpointed", "adjoint"])
@pytest.mark.parametrize("batch", ["shared", "rows"])
def test_methods_with_a_backward_pass_of_their_own_say_what_to_use(gradient, batch):
    def total(y: Tensor) -> Tensor:
        return odekit.solve(lambda t, y: -y, y, [0.0, 1.0], gradient=gradient, batch=batch).y1.sum()

    with pytest.raises(GradientError, match="use gradient='direct'"):
        grad(total)(STARTS)
    if batch == "shared":
        with pytest.raises(GradientError, match="use gradient='direct'"):
            vmap(total)(STARTS)
        with torch.no_grad():
            close(vmap(total)(STARTS), STARTS.sum(1) * math.exp(-1), 1e-6)


def test_rows_inside_transforms():
    def total(y: Tensor) -> Tensor:
        return odekit.solve(bent, y, [0.0, 1.0], args=(RATE,), batch="rows", **ADAPTIVE).y1.sum()

    close(grad(total)(STARTS), torch.stack([grad(lambda y: end(y, RATE).sum())(y) for y in STARTS]), 1e-6)
    with pytest.raises(InputError, match="lanes cannot have rows"):
        vmap(total)(STARTS[None].expand(2, 3, 2))


def test_matrix_free_solves_are_refused():
    solver = odekit.solving.solver_named("kvaerno5")
    with pytest.raises(GradientError, match="linear='dense'"):
        vmap(lambda y: end(y, RATE, solver=type(solver)(linear="gmres")))(STARTS)
