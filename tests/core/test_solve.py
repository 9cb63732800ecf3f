"""The front door: what goes in, what comes out, what it costs, and how it fails."""

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any

import numpy as np
import optree
import pytest
import torch
from problems import ADAPTIVE, AUTONOMOUS, DOUBLE, GRADIENTS, IMPLICIT, SOLVERS, Counted, solver_class
from torch import Tensor

from odekit import FixedStep, PIDControl, Solution, Status, solve
from odekit.errors import SolveError

Pair = namedtuple("Pair", ["position", "speed"])


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -y


def swing(t: Tensor, y: Any) -> Any:
    return Pair(y.speed, -y.position)


def close(found: Tensor, expected: Any, tol: float = 1e-5) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), rtol=tol, atol=tol)


# What comes out


@pytest.mark.parametrize("shape", [(), (3,), (4, 3), (2, 3, 4), (0,), (0, 3), (3, 0)], ids=str)
@pytest.mark.parametrize("solver", ["dopri5", "rk4", "kvaerno3"])
def test_a_tensor_state_of_any_shape(shape: tuple[int, ...], solver: str) -> None:
    y0 = torch.rand(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    solution = solve(decay, y0, [0.0, 0.5, 1.0], solver=solver, step_size=0.05)
    assert isinstance(solution, Solution)
    assert solution.ys.shape == (3, *shape)
    assert solution.y1.shape == shape
    assert solution.ts.tolist() == [0.0, 0.5, 1.0]
    assert (solution.status, solution.t1) == (Status.SUCCESS, 1.0)
    assert torch.equal(solution.ys[0], y0)
    assert torch.equal(solution.ys[-1], solution.y1)
    close(solution.ys[1], y0 * math.exp(-0.5), 1e-4)
    close(solution.y1, y0 * math.exp(-1.0), 1e-4)


@pytest.mark.parametrize("rows", [(2, 2), (2, 1)], ids=["same first axis", "different first axes"])
@pytest.mark.parametrize("solver", ["dopri5", "kvaerno3"])
@pytest.mark.parametrize(
    "nest",
    [
        lambda a, b: (a, b),
        lambda a, b: [a, b],
        lambda a, b: {"b": b, "a": a},
        Pair,
        lambda a, b: {"x": (a, [b]), "y": Pair(b, a)},
    ],
    ids=["tuple", "list", "dict", "namedtuple", "deep"],
)
def test_a_nested_state_comes_back_as_it_was_nested(nest: Any, solver: str, rows: tuple[int, int]) -> None:
    a, b = torch.full((rows[0], 3), 2.0, dtype=DOUBLE), torch.full((rows[1],), 5.0, dtype=DOUBLE)
    y0 = nest(a, b)

    def f(t: Tensor, y: Any) -> Any:
        assert optree.tree_structure(y) == optree.tree_structure(y0)
        return optree.tree_map(torch.neg, y)

    solution = solve(f, y0, [0.0, 1.0], solver=solver)
    for found, times in ((solution.ys, 2), (solution.y1, None)):
        assert type(found) is type(y0)
        leaves, leaves0 = optree.tree_leaves(found), optree.tree_leaves(y0)
        for leaf, leaf0 in zip(leaves, leaves0, strict=True):
            assert leaf.shape == (leaf0.shape if times is None else (times, *leaf0.shape))
            close(leaf if times is None else leaf[-1], leaf0 * math.exp(-1))


def test_the_parts_of_a_nested_state_may_be_coupled() -> None:
    solution = solve(swing, Pair(torch.ones(3).double(), torch.zeros(3).double()), [0.0, math.pi / 2])
    close(solution.y1.position, torch.zeros(3))
    close(solution.y1.speed, -torch.ones(3))


@pytest.mark.parametrize("nest", [lambda a, b: (a, b), lambda a, b: {"a": a, "b": b}], ids=["tuple", "dict"])
def test_an_empty_batch_of_a_nested_state(nest: Any) -> None:
    y0 = nest(torch.zeros(0, 3), torch.zeros(0))
    solution = solve(lambda t, y: y, y0, [0.0, 1.0])
    shapes = [tuple(leaf.shape) for leaf in optree.tree_leaves(solution.ys)]
    assert shapes == [(2, 0, 3), (2, 0)]


@pytest.mark.parametrize("solver", ["dopri5", "rk4", "kvaerno3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128], ids=str)
def test_the_state_keeps_its_dtype_and_time_is_real(dtype: torch.dtype, solver: str) -> None:
    rate = torch.tensor(-0.5 + 2j if dtype.is_complex else -0.5, dtype=dtype)
    seen = set()

    def f(t: Tensor, y: Tensor) -> Tensor:
        seen.add((t.dtype, t.shape, y.dtype))
        return rate * y

    y0 = torch.tensor([1.0, 2.0], dtype=dtype)
    solution = solve(f, y0, [0.0, 0.3, 1.0], solver=solver, step_size=None if solver == "dopri5" else 0.02)
    assert seen == {(dtype.to_real(), torch.Size([]), dtype)}
    assert solution.ys.dtype == solution.y1.dtype == dtype
    close(solution.y1, y0 * rate.exp(), 1e-4)


# Times


@pytest.mark.parametrize("solver", SOLVERS)
def test_decreasing_times_undo_increasing_ones(solver: str) -> None:
    y0 = AUTONOMOUS.exact(0.0)
    options = {"solver": solver, "step_size": 0.002 if solver_class(solver).order == 1 else 0.02}
    there = solve(AUTONOMOUS.f, y0, [0.0, 0.3, 0.8], **options)
    back = solve(AUTONOMOUS.f, there.y1, [0.8, 0.3, 0.0], **options)
    close(back.ys, there.ys.flip(0), 1e-2 if solver_class(solver).order == 1 else 1e-4)
    assert back.t1 == 0.0


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("t", [[1.0], [1.0, 1.0], [2, 2, 2]], ids=str)
def test_a_span_of_nothing_gives_back_y0(t: list[float], gradient: str) -> None:
    y0 = torch.rand(3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    solution = solve(decay, y0, t, gradient=gradient)
    assert solution.status is Status.SUCCESS
    assert solution.stats.steps == 0
    assert torch.equal(solution.ys, y0.expand(len(t), 3))
    assert torch.equal(solution.y1, y0)
    (grad,) = torch.autograd.grad(solution.ys.sum() + solution.y1.sum(), y0)
    assert torch.equal(grad, torch.full((3,), len(t) + 1.0))


@pytest.mark.parametrize(
    "t",
    [
        [0, 1, 2],
        (0, 1.0, 2),
        range(3),
        np.arange(3),
        np.linspace(0, 2, 3, dtype=np.float32),
        torch.arange(3),
        torch.arange(3, dtype=torch.float32),
        torch.arange(3, dtype=torch.bfloat16),
    ],
    ids=["list", "tuple", "range", "numpy int", "numpy float32", "int tensor", "float32", "bfloat16"],
)
def test_times_come_in_many_forms(t: Any) -> None:
    solution = solve(decay, torch.ones(2, dtype=DOUBLE), t)
    close(solution.ys[:, 0], torch.arange(3).double().neg().exp())
    assert solution.t1 == 2.0


def test_repeated_times_repeat_the_answer() -> None:
    t = [0.0, 0.0, 0.4, 0.4, 0.4, 1.0, 1.0]
    for options in ({}, {"solver": "rk4", "step_size": 0.1}, {"solver": "kvaerno3"}):
        ys = solve(decay, torch.ones(1, dtype=DOUBLE), t, **options).ys[:, 0]
        close(ys, torch.tensor(t, dtype=DOUBLE).neg().exp())
        assert ys[0] == ys[1] == 1.0
        assert ys[2] == ys[3] == ys[4]
        assert ys[5] == ys[6]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_late_start(dtype: torch.dtype) -> None:
    t = torch.tensor([1e6, 1e6 + 1, 1e6 + 2], dtype=DOUBLE)
    solution = solve(decay, torch.ones(2, dtype=dtype), t)
    close(solution.ys[:, 0], [1.0, math.exp(-1), math.exp(-2)], 1e-4)
    assert solution.stats.steps < 40


def test_a_float64_state_is_told_float64_times_late_in_the_day() -> None:
    f = Counted(decay)
    solve(f, torch.ones(1, dtype=DOUBLE), [1e6, 1e6 + 1e-3], solver="rk4", step_size=1e-4)
    assert len(set(f.times)) == 21
    assert max(f.times) - min(f.times) == pytest.approx(1e-3, rel=1e-6)


def grids(dtype: torch.dtype) -> list[Any]:
    learnable = torch.tensor([0.0, 0.05, 0.1], dtype=DOUBLE, requires_grad=True)
    return [
        [0.0, 0.1],
        [0.0, 0.03, 0.7],
        [0.7, 0.5, 0.1],
        [-0.1, -0.7],
        torch.tensor([0.0, 0.1], dtype=dtype),
        learnable,
    ]


@pytest.mark.filterwarnings("ignore::odekit.errors.AdjointDriftWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_f_is_never_called_outside_the_span(solver: str, gradient: str, dtype: torch.dtype) -> None:
    for t in grids(dtype):
        values = torch.as_tensor(t, dtype=DOUBLE).tolist()
        low, high = min(values), max(values)
        for step_size in (0.09, *([None] if solver in ADAPTIVE else [])):
            f = Counted(decay)
            y0 = torch.ones(2, dtype=dtype, requires_grad=True)
            options = {"solver": solver, "step_size": step_size, "gradient": gradient, "rtol": 1e-3, "atol": 1e-4}
            solve(f, y0, t, **options).ys.sum().backward()
            assert low <= min(f.times) <= max(f.times) <= high
            assert f.calls > 0


# What it costs


def scaled(t: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    return scale * torch.sin(t + y)


@pytest.mark.filterwarnings("ignore::odekit.errors.AdjointDriftWarning")
@pytest.mark.parametrize("times", [[0.0, 1.0], [1.0, 0.55, 0.3, 0.0]], ids=["ends", "with outputs inside"])
@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_call_of_f_is_counted(solver: str, gradient: str, times: list[float]) -> None:
    for step_size in (0.2, *([None] if solver in ADAPTIVE else [])):
        for t in (times, torch.tensor(times, dtype=DOUBLE, requires_grad=True)):
            f = Counted(scaled)
            y0 = torch.ones(2, 3, dtype=DOUBLE, requires_grad=True)
            scale = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)
            options = {"solver": solver, "gradient": gradient, "step_size": step_size, "rtol": 1e-4, "atol": 1e-4}
            solution = solve(f, y0, t, args=(scale,), **options)
            forward = f.calls
            assert solution.stats.nfe == forward > 0
            assert solution.stats.nfe_backward == 0
            solution.ys.square().sum().backward()
            assert solution.stats.nfe == forward
            assert solution.stats.nfe_backward == f.calls - forward
            assert (solution.stats.nfe_backward == 0) is (gradient == "direct")
            assert (solution.stats.steps_backward == 0) is (gradient == "direct")
            assert solution.stats.steps == solution.stats.accepted + solution.stats.rejected
            assert (solution.stats.jacobians > 0) is (solver in IMPLICIT)


def test_explicit_steps_cost_what_their_stages_say() -> None:
    """Ten steps: a first-same-as-last method saves its last stage everywhere but once."""
    costs = {"euler": 10, "midpoint": 20, "heun": 20, "rk4": 40, "rk4-38": 40, "bosh3": 31, "dopri5": 61, "tsit5": 61}
    for solver, nfe in costs.items():
        y0 = torch.ones(1, dtype=DOUBLE)
        assert solve(decay, y0, [0.0, 1.0], solver=solver, step_size=0.1).stats.nfe == nfe, solver


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_solving_without_grad_costs_the_same_and_keeps_nothing(gradient: str) -> None:
    y0 = torch.ones(2, requires_grad=True)
    with_grad = solve(decay, y0, [0.0, 1.0], gradient=gradient)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            without = solve(decay, y0, [0.0, 1.0], gradient=gradient)
        assert not without.ys.requires_grad
        assert without.stats.nfe == with_grad.stats.nfe
        assert torch.equal(without.ys, with_grad.ys.detach())


@pytest.mark.parametrize("solver", SOLVERS)
def test_solving_twice_gives_the_same_bits(solver: str) -> None:
    y0 = AUTONOMOUS.exact(0.0).expand(5, 2)
    step_size = None if solver in ADAPTIVE else 0.1
    first, second = (solve(AUTONOMOUS.f, y0, [0.0, 0.4, 1.0], solver=solver, step_size=step_size) for _ in range(2))
    assert torch.equal(first.ys, second.ys)
    assert first.stats == second.stats


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_y0_is_left_as_it_was(solver: str, gradient: str) -> None:
    y0 = torch.rand(3, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    before, version = y0.detach().clone(), y0._version
    solve(AUTONOMOUS.f, y0, [0.0, 0.4, 1.0], solver=solver, gradient=gradient, step_size=0.1).ys.sum().backward()
    assert torch.equal(y0, before)
    assert y0._version == version


# Options


def test_arguments_are_passed_on_and_differentiated() -> None:
    rate = torch.tensor(0.5, dtype=DOUBLE, requires_grad=True)
    more = {"shift": torch.tensor(0.25, dtype=DOUBLE, requires_grad=True), "words": "untouched", "none": None}

    def f(t: Tensor, y: Tensor, rate: Tensor, more: dict[str, Any], power: int) -> Tensor:
        assert (more["words"], more["none"], power) == ("untouched", None, 1)
        return -(rate**power) * y + more["shift"]

    r, s, e = 0.5, 0.25, math.exp(-0.5)
    exact = s / r + (1 - s / r) * e
    by_rate = -s / r**2 + s / r**2 * e - (1 - s / r) * e
    by_shift = (1 - e) / r
    for gradient in GRADIENTS:
        y1 = solve(f, torch.ones(1, dtype=DOUBLE), [0.0, 1.0], args=(rate, more, 1), gradient=gradient).y1
        close(y1, [exact], 1e-6)
        grads = torch.autograd.grad(y1.sum(), [rate, more["shift"]])
        close(torch.stack(grads), [by_rate, by_shift], 1e-5)


@pytest.mark.parametrize(
    "solver",
    ["rk4", "odekit:rk4", solver_class("rk4"), solver_class("rk4")()],
    ids=["name", "in full", "class", "instance"],
)
def test_a_solver_is_a_name_a_class_or_an_instance(solver: Any) -> None:
    y0 = torch.ones(1, dtype=DOUBLE)
    expected = solve(decay, y0, [0.0, 1.0], solver="rk4", step_size=0.1).ys
    assert torch.equal(solve(decay, y0, [0.0, 1.0], solver=solver, step_size=0.1).ys, expected)


@pytest.mark.parametrize("control", [None, "i", "PI", "pid", PIDControl(), FixedStep(0.01)], ids=str)
def test_a_control_is_a_name_or_an_instance(control: Any) -> None:
    close(solve(decay, torch.ones(1, dtype=DOUBLE), [0.0, 1.0], control=control).y1, [math.exp(-1)])


def test_tolerances_may_differ_between_components() -> None:
    """Loosening the tolerance of the one component that is hard to follow saves most of the work."""

    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([-y[0], 30 * torch.cos(30 * t)])

    y0 = torch.tensor([1.0, 0.0], dtype=DOUBLE)
    strict = solve(f, y0, [0.0, 2.0], rtol=0.0, atol=1e-8)
    loose = solve(f, y0, [0.0, 2.0], rtol=0.0, atol=torch.tensor([1e-8, 1e-1], dtype=DOUBLE))
    assert loose.stats.nfe < strict.stats.nfe / 2
    close(loose.y1[0], math.exp(-2), 1e-6)


def test_tolerances_may_be_nested_as_the_state_is() -> None:
    y0 = {"a": torch.ones(2, 3, dtype=DOUBLE), "b": torch.ones(2, dtype=DOUBLE)}

    def f(t: Tensor, y: Any) -> Any:
        return {"a": -y["a"], "b": torch.cos(30 * t) * y["b"]}

    strict = solve(f, y0, [0.0, 2.0], rtol=1e-8, atol=1e-8)
    loose = solve(f, y0, [0.0, 2.0], rtol={"a": 1e-8, "b": 10.0}, atol={"a": torch.full((3,), 1e-8), "b": 10.0})
    assert loose.stats.nfe < strict.stats.nfe
    close(loose.y1["a"], torch.full((2, 3), math.exp(-2)), 1e-6)


def test_a_component_that_stays_at_zero_needs_no_absolute_tolerance() -> None:
    for solver in ("dopri5", "kvaerno3"):
        y1 = solve(decay, torch.tensor([0.0, 1.0], dtype=DOUBLE), [0.0, 1.0], solver=solver, atol=0.0, rtol=1e-6).y1
        close(y1, [0.0, math.exp(-1)])


def test_the_norm_is_a_choice() -> None:
    """One row in a hundred moves: the largest component asks for more than the root mean square."""
    y0 = torch.zeros(100, dtype=DOUBLE)
    y0[3] = 1.0
    cost = {}
    seen = []

    def first_ten(x: Tensor) -> Tensor:
        seen.append(x.shape)
        return x[:10].abs().amax()

    for norm in ("rms", "max", first_ten):
        solution = solve(lambda t, y: -y * 20, y0, [0.0, 1.0], norm=norm)
        cost[norm] = solution.stats.accepted
        close(solution.y1[3], math.exp(-20))
    assert cost["rms"] < cost["max"] == cost[first_ten]
    assert set(seen) == {torch.Size([100])}


def test_a_batch_shares_its_steps_and_its_rows_agree_with_rows_alone() -> None:
    y0 = torch.tensor([[1.0, 0.2], [0.3, 0.8], [2.0, 0.5]], dtype=DOUBLE)
    together = solve(AUTONOMOUS.f, y0, [0.0, 0.5, 2.0], rtol=1e-8, atol=1e-10)
    for row in range(3):
        alone = solve(AUTONOMOUS.f, y0[row], [0.0, 0.5, 2.0], rtol=1e-8, atol=1e-10)
        close(together.ys[:, row], alone.ys, 1e-7)


def test_a_module_is_a_vector_field() -> None:
    class Drive(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(2, 2)

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.linear(y) * t

    f = Drive()
    for gradient in GRADIENTS:
        f.zero_grad()
        solve(f, torch.ones(4, 2), [0.0, 1.0], gradient=gradient).y1.sum().backward()
        assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in f.parameters())


# How it fails


@pytest.mark.filterwarnings("ignore::odekit.errors.AdjointDriftWarning")
@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("since", [0.0, 0.55])
def test_nan_from_f_is_a_status(solver: str, gradient: str, since: float) -> None:
    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t >= since, math.nan, -1.0) * y

    y0 = torch.ones(2, requires_grad=True)
    size = {"rtol": 1e-3, "atol": 1e-4} if solver in ADAPTIVE else {"step_size": 0.1}
    options = {"solver": solver, "gradient": gradient, **size}
    solution = solve(f, y0, [0.0, 0.25, 1.0], throw=False, **options)
    assert solution.status in (Status.NON_FINITE, Status.NEWTON_DIVERGED)
    assert solution.stats.steps < 200
    assert solution.t1 < 0.56
    assert bool(solution.y1.isfinite().all())
    assert bool(solution.ys[2].isnan().all())
    if since > 0.5:
        close(solution.ys[1], [math.exp(-0.25)] * 2, 0.03)
        (grad,) = torch.autograd.grad(solution.ys[1].sum(), y0)
        close(grad, solution.ys[1].detach(), 0.03 if gradient == "adjoint" else 1e-6)
    with pytest.raises(SolveError) as caught:
        solve(f, y0, [0.0, 0.25, 1.0], **options)
    assert caught.value.status is solution.status
    assert torch.equal(caught.value.solution.ys.isnan(), solution.ys.isnan())


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solution_that_blows_up_is_a_status(solver: str) -> None:
    """y' = y² from 1 has a pole at t = 1."""
    options = {"rtol": 1e-3, "atol": 1e-3} if solver in ADAPTIVE else {"step_size": 0.002}
    y0 = torch.ones(1, dtype=DOUBLE)
    solution = solve(lambda t, y: y**2, y0, [0.0, 0.5, 2.0], solver=solver, throw=False, **options)
    assert solution.status in (Status.STEP_UNDERFLOW, Status.NON_FINITE, Status.NEWTON_DIVERGED)
    assert solution.stats.steps < 2000
    assert solution.t1 < 1.05
    assert float(solution.ys[1]) == pytest.approx(2.0, rel=1e-2)
    assert math.isnan(solution.ys[2])
    assert math.isfinite(solution.y1)


def test_the_message_of_a_failure_says_when_why_at_what_cost_and_what_to_try() -> None:
    with pytest.raises(SolveError) as caught:
        solve(lambda t, y: y**2, torch.ones(1, dtype=DOUBLE), [0.0, 2.0])
    message, stats = str(caught.value), caught.value.solution.stats
    assert "solver 'dopri5' stopped at t = 1" in message
    assert str(caught.value.status) in message
    assert f"{stats.nfe} evaluations of f, {stats.accepted} steps accepted, {stats.rejected} rejected" in message
    assert "singularity" in message
    assert "throw=False" in message


@pytest.mark.parametrize("y0", [math.nan, math.inf])
@pytest.mark.parametrize("options", [{}, {"solver": "rk4", "step_size": 0.1}, {"solver": "kvaerno3"}], ids=str)
def test_an_initial_state_that_is_not_finite_is_named_as_the_cause(y0: float, options: dict[str, Any]) -> None:
    with pytest.raises(SolveError, match="y0 itself holds NaN or infinite values"):
        solve(decay, torch.tensor([1.0, y0]), [0.0, 1.0], **options)


@pytest.mark.parametrize("control", ["i", FixedStep(0.1)], ids=str)
def test_an_overflow_is_not_a_success(control: Any) -> None:
    """The slope is finite, and so is every error estimate, but the state is not."""
    y0 = torch.full((1,), 3e38)
    solution = solve(lambda t, y: torch.full_like(y, 1e38), y0, [0.0, 0.1, 1.0], control=control, throw=False)
    assert solution.status is Status.NON_FINITE
    assert bool(solution.ys[1].isfinite().all())
    assert bool(solution.y1.isfinite().all())


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_max_steps_is_for_the_whole_solve(gradient: str) -> None:
    t = torch.linspace(0, 1, 11, dtype=DOUBLE)
    y0 = torch.ones(1, dtype=DOUBLE, requires_grad=True)
    options = {"solver": "rk4", "step_size": 0.05, "gradient": gradient}
    solution = solve(decay, y0, t, max_steps=10, throw=False, **options)
    assert solution.status is Status.MAX_STEPS
    assert solution.stats.steps == 10
    assert solution.t1 == pytest.approx(0.5)
    close(solution.y1, [math.exp(-0.5)])
    close(solution.ys[:6, 0], t[:6].neg().exp())
    assert bool(solution.ys[6:].isnan().all())
    (grad,) = torch.autograd.grad(solution.ys[:6].sum() + solution.y1.sum(), y0)
    close(grad, [float(t[:6].neg().exp().sum()) + math.exp(-0.5)])
    with pytest.raises(SolveError, match=r"used up max_steps before the last output time.*Raise max_steps="):
        solve(decay, y0, t, max_steps=10, **options)
    assert solve(decay, y0, t, max_steps=20, **options).status is Status.SUCCESS
