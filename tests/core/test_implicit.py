"""Implicit steps: stiff problems, the Newton iteration and its Jacobian, and the gradient through it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import DOUBLE, IMPLICIT, Counted, solver_class
from scipy.integrate import solve_ivp
from torch import Tensor
from torch.autograd import gradcheck

from odekit import PIDControl, Status, solve
from odekit.core.jacobian import jacobian, rows_are_independent
from odekit.core.nonlinear import Newton
from odekit.errors import GradientError

ONE_STEP = [name for name in IMPLICIT if hasattr(solver_class(name), "tableau")]


def robertson(t: Tensor, y: Tensor) -> Tensor:
    a, b, c = y.unbind(-1)
    slow, fast, back = 0.04 * a, 3e7 * b * b, 1e4 * b * c
    return torch.stack([back - slow, slow - back - fast, fast], -1)


def van_der_pol(t: Tensor, y: Tensor, mu: float = 1000.0) -> Tensor:
    x, v = y.unbind(-1)
    return torch.stack([v, mu * (1 - x**2) * v - x], -1)


def reference(f: Callable[..., Tensor], y0: Tensor, times: list[float]) -> Tensor:
    """Radau's answer, far tighter than what it is compared with."""

    def plain(t: float, y: Any) -> Any:
        return f(torch.tensor(t, dtype=DOUBLE), torch.as_tensor(y)).numpy()

    found = solve_ivp(plain, (times[0], times[-1]), y0.numpy(), "Radau", t_eval=times, rtol=1e-10, atol=1e-14)
    return torch.as_tensor(found.y.T)


def test_robertson() -> None:
    y0, times = torch.tensor([1.0, 0.0, 0.0], dtype=DOUBLE), [0.0, 0.4, 40.0, 4e3]
    atol = torch.tensor([1e-8, 1e-12, 1e-8], dtype=DOUBLE)
    solution = solve(robertson, y0, times, solver="kvaerno3", rtol=1e-6, atol=atol)
    torch.testing.assert_close(solution.ys, reference(robertson, y0, times), rtol=2e-5, atol=1e-12)
    torch.testing.assert_close(solution.ys.sum(-1), torch.ones(4, dtype=DOUBLE), rtol=0, atol=1e-7)
    assert solution.stats.steps < 600


def test_van_der_pol_where_it_is_stiff() -> None:
    y0, times = torch.tensor([2.0, 0.0], dtype=DOUBLE), [0.0, 1.0, 300.0]
    stiff = solve(van_der_pol, y0, times, solver="kvaerno3", rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(stiff.ys, reference(van_der_pol, y0, times), rtol=1e-5, atol=1e-9)
    assert stiff.stats.steps < 150
    explicit = solve(van_der_pol, y0, times, rtol=1e-6, atol=1e-9, max_steps=5_000, throw=False)
    assert explicit.status is Status.MAX_STEPS
    assert "kvaerno3" in explicit.status.hint


@pytest.mark.slow
def test_van_der_pol_over_its_jumps() -> None:
    y0, times = torch.tensor([2.0, 0.0], dtype=DOUBLE), [0.0, 500.0, 1000.0, 2000.0]
    stiff = solve(van_der_pol, y0, times, solver="kvaerno3", rtol=1e-8, atol=1e-11)
    torch.testing.assert_close(stiff.ys, reference(van_der_pol, y0, times), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("solver", ["implicit_euler", "kvaerno3"])
def test_an_l_stable_method_forgets_a_wrong_start_in_one_step(solver: str) -> None:
    """y' = -10⁶ (y - cos t) from y = 2, with steps of 0.1."""

    def f(t: Tensor, y: Tensor) -> Tensor:
        return -1e6 * (y - torch.cos(t))

    times = torch.linspace(0, 1, 11, dtype=DOUBLE)
    ys = solve(f, torch.tensor([2.0], dtype=DOUBLE), times, solver=solver, step_size=0.1).ys[:, 0]
    torch.testing.assert_close(ys[1:], times[1:].cos(), rtol=0, atol=5e-5)


def test_the_trapezoidal_rule_is_a_stable_only() -> None:
    """The same start rings on, without growing."""

    def f(t: Tensor, y: Tensor) -> Tensor:
        return -1e6 * (y - torch.cos(t))

    times = torch.linspace(0, 1, 11, dtype=DOUBLE)
    ys = solve(f, torch.tensor([2.0], dtype=DOUBLE), times, solver="trapezoid", step_size=0.1).ys[:, 0]
    torch.testing.assert_close((ys - times.cos()).abs(), torch.ones(11, dtype=DOUBLE), rtol=0, atol=1e-2)


# Jacobians


def separate(t: Tensor, y: Tensor) -> Tensor:
    """Each row by itself; stiff in one component."""
    return torch.stack([-1000 * (y[..., 0] - y[..., 1] ** 2), -y[..., 1]], -1)


def together(t: Tensor, y: Tensor) -> Tensor:
    """Rows that pull at each other."""
    return -50 * (y - y.mean(0)) - y


@pytest.mark.parametrize("solver", IMPLICIT)
@pytest.mark.parametrize("f", [separate, together])
def test_row_blocks_and_one_dense_matrix_agree_where_both_are_right(solver: str, f: Any) -> None:
    y0 = torch.tensor([[1.0, 2.0], [0.5, -1.0], [3.0, 0.0]], dtype=DOUBLE)
    kind = functools.partial(solver_class(solver), linear="dense")
    auto = solve(f, y0, [0.0, 0.5], solver=solver, step_size=0.05)
    dense = solve(f, y0, [0.0, 0.5], solver=kind(), step_size=0.05)
    torch.testing.assert_close(auto.ys, dense.ys, rtol=1e-8, atol=1e-9)


def test_rows_that_interact_are_found_out() -> None:
    y = torch.rand(5, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    assert rows_are_independent(lambda y: y.sin() * y.sum(-1, keepdim=True), y)
    assert not rows_are_independent(lambda y: y - y.mean(0), y)
    for i in range(5):
        for j in set(range(5)) - {i}:
            coupled = torch.zeros(5, 5, dtype=DOUBLE)
            coupled[i, j] = 1e-3
            assert not rows_are_independent(lambda y, coupled=coupled: y + coupled @ y, y), (i, j)
    assert not rows_are_independent(lambda y: y, y[0]), "a vector has no rows"
    assert not rows_are_independent(lambda y: y, y[:1]), "one row is the whole state"


def test_blocks_are_the_diagonal_of_the_dense_jacobian() -> None:
    def f(y: Tensor) -> Tensor:
        return (y.flip(1) * y.sin()).cumsum(1)

    y = torch.rand(4, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    dense = jacobian(f, y, rows=False).matrix
    torch.testing.assert_close(dense, torch.autograd.functional.jacobian(f, y).reshape(12, 12))
    blocks = jacobian(f, y, rows=True).matrix
    torch.testing.assert_close(torch.block_diag(*blocks), dense)


def test_the_jacobian_of_a_holomorphic_function() -> None:
    matrix = torch.tensor([[1 + 2j, 3j], [0.5, -1j]], dtype=torch.complex128)
    y = torch.tensor([1 - 1j, 2j], dtype=torch.complex128)
    torch.testing.assert_close(jacobian(lambda y: matrix @ y, y, rows=False).matrix, matrix)


def test_the_factors_solve_what_they_should() -> None:
    y = torch.rand(4, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    made = jacobian(lambda y: y.sin() * y.sum(1, keepdim=True), y, rows=True)
    right = torch.rand(4, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    found = made.factored(0.3).solve(right)
    torch.testing.assert_close(found - 0.3 * (made.matrix @ found[..., None])[..., 0], right)
    found = made.adjoint().factored(0.3).solve(right)
    torch.testing.assert_close(found - 0.3 * (made.matrix.mT @ found[..., None])[..., 0], right)


def test_a_wide_batch_costs_a_block_each_not_one_large_matrix() -> None:
    """2000 rows: a dense Jacobian would have 36 million entries."""
    y0 = torch.rand(2000, 3, generator=torch.Generator().manual_seed(0))
    solution = solve(lambda t, y: -y * y.sum(-1, keepdim=True), y0, [0.0, 0.5], solver="kvaerno3")
    assert solution.status.ok


# The iteration


@pytest.mark.parametrize("solver", ONE_STEP)
def test_an_iteration_that_diverges_is_reported(solver: str) -> None:
    """y = 1 + h y² has no real solution for the given h."""
    solution = solve(
        lambda t, y: 10 * y**2, torch.ones(1, dtype=DOUBLE), [0.0, 5.0], solver=solver, step_size=1.0, throw=False
    )
    assert solution.status is Status.NEWTON_DIVERGED
    assert (solution.t1, solution.stats.accepted) == (0.0, 0)
    assert "smaller step_size=" in solution.status.hint


def test_an_adaptive_solve_retries_with_smaller_steps() -> None:
    """Told to begin with a step that is far too long for three iterations."""

    def f(t: Tensor, y: Tensor) -> Tensor:
        return y**2 - y**3

    y0 = torch.tensor([0.01], dtype=DOUBLE)
    solver = solver_class("kvaerno3")(newton=Newton(max_iterations=3))
    solution = solve(f, y0, [0.0, 200.0], solver=solver, control=PIDControl(first_step=150.0))
    assert solution.status is Status.SUCCESS
    assert solution.stats.rejected > 0
    torch.testing.assert_close(solution.y1, torch.ones(1, dtype=DOUBLE), rtol=1e-5, atol=0)


@pytest.mark.parametrize("solver", IMPLICIT)
def test_the_iteration_does_not_show_in_the_answer(solver: str) -> None:
    """A Newton iteration ten thousand times tighter changes next to nothing."""

    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([torch.sin(3 * y[1]) - y[0] ** 3, torch.cos(t) - y[0] * y[1]])

    y0 = torch.tensor([1.0, 0.5], dtype=DOUBLE)
    kind = solver_class(solver)
    usual = solve(f, y0, [0.0, 2.0], solver=kind(), step_size=0.1)
    tight = solve(f, y0, [0.0, 2.0], solver=kind(newton=Newton(fraction=1e-6, max_iterations=50)), step_size=0.1)
    torch.testing.assert_close(usual.y1, tight.y1, rtol=1e-9, atol=1e-11)


def test_a_linear_problem_needs_one_jacobian_and_hardly_an_iteration() -> None:
    solution = solve(lambda t, y: -3 * y, torch.ones(4, dtype=DOUBLE), [0.0, 1.0], solver="trapezoid", step_size=0.1)
    assert solution.stats.jacobians == 1
    assert solution.stats.nfe <= 33
    torch.testing.assert_close(solution.y1, torch.full((4,), (0.85 / 1.15) ** 10, dtype=DOUBLE))


@pytest.mark.parametrize("solver", IMPLICIT)
def test_complex_states(solver: str) -> None:
    """y' = i ω y with a stiff real companion: the solution turns, and a holomorphic Newton iteration finds it."""
    rates = torch.tensor([3j, -1000 + 50j], dtype=torch.complex128)
    f = Counted(lambda t, y: rates * y + 0.1 * y**2)
    y0 = torch.tensor([1.0, 0.5], dtype=torch.complex128)
    step = {"implicit_euler": 1e-3, "trapezoid": 1e-3}.get(solver)
    found = solve(f, y0, [0.0, 0.5], solver=solver, step_size=step).y1
    # Bernoulli: y = r / ((r/y0 + 0.1) exp(-r t) - 0.1)
    exact = rates / ((rates / y0 + 0.1) * torch.exp(-rates * 0.5) - 0.1)
    torch.testing.assert_close(found, exact, rtol=0, atol=5e-3 if solver == "implicit_euler" else 1e-4)


@pytest.mark.parametrize("solver", IMPLICIT)
def test_single_precision(solver: str) -> None:
    step = None if solver == "kvaerno3" else 0.01
    y0 = torch.tensor([[1.0, 2.0], [0.5, -1.0]])
    narrow = solve(separate, y0, [0.0, 1.0], solver=solver, step_size=step)
    wide = solve(separate, y0.double(), [0.0, 1.0], solver=solver, step_size=step)
    assert narrow.ys.dtype == torch.float32
    torch.testing.assert_close(narrow.y1.double(), wide.y1, rtol=1e-3, atol=1e-4)


# Gradients


@pytest.mark.parametrize("batched", [False, True], ids=["vector", "rows"])
@pytest.mark.parametrize("solver", IMPLICIT)
def test_the_gradient_through_implicit_stages(solver: str, batched: bool) -> None:
    """By the implicit function theorem, hence only as exact as the iteration: it is run to rounding here."""
    exact = solver_class(solver)(newton=Newton(fraction=1e-4))

    def f(t: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        return torch.tanh(y @ weight) - t * y**2

    def end(y0: Tensor, weight: Tensor, t: Tensor) -> Tensor:
        return solve(f, y0, t, args=(weight,), solver=exact, step_size=0.4, rtol=1e-10, atol=1e-10).ys

    generator = torch.Generator().manual_seed(0)
    y0 = torch.rand((3, 2) if batched else (2,), dtype=DOUBLE, generator=generator).requires_grad_()
    weight = torch.randn(2, 2, dtype=DOUBLE, generator=generator).requires_grad_()
    t = torch.tensor([0.0, 0.3, 1.0], dtype=DOUBLE, requires_grad=True)
    assert gradcheck(end, (y0, weight, t), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("solver", ONE_STEP)
def test_the_gradient_of_stiff_steps_does_not_depend_on_how_newton_got_there(solver: str) -> None:
    """Far more than the tolerance of the iteration would let backpropagation through its iterates have."""
    rate = torch.tensor(200.0, dtype=DOUBLE, requires_grad=True)
    y0 = torch.tensor([2.0], dtype=DOUBLE, requires_grad=True)
    times = [0.0, 0.1, 0.2]  # the last step may be one of another method
    y1 = solve(lambda t, y: -rate * (y - 1), y0, times, solver=solver, step_size=0.1, rtol=1e-3, atol=1e-3).ys[1]
    grads = torch.cat([grad.reshape(1) for grad in torch.autograd.grad(y1.sum(), [rate, y0])])

    z = torch.tensor(20.0, dtype=DOUBLE, requires_grad=True)
    tableau = solver_class(solver).tableau
    s = len(tableau.b)
    a = torch.tensor([[*row, *[0.0] * (s - len(row))] for row in tableau.a], dtype=DOUBLE)
    b = torch.tensor(tableau.b, dtype=DOUBLE)
    factor = 1 - z * b @ torch.linalg.solve(torch.eye(s, dtype=DOUBLE) + z * a, torch.ones(s, dtype=DOUBLE))
    (by_z,) = torch.autograd.grad(factor, z)
    torch.testing.assert_close(grads, torch.stack([0.1 * by_z, factor.detach()]), rtol=1e-8, atol=1e-12)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("solver", IMPLICIT)
def test_forward_mode_goes_through_implicit_stages(solver: str) -> None:
    def end(y0: Tensor) -> Tensor:
        return solve(lambda t, y: -(y**2), y0, [0.0, 1.0], solver=solver, step_size=0.25).y1

    y0, along = torch.tensor([0.5, 1.5], dtype=DOUBLE), torch.tensor([1.0, -2.0], dtype=DOUBLE)
    jacobian = torch.autograd.functional.jacobian(end, y0)
    for mode in (torch.enable_grad(), torch.no_grad()):
        with mode:
            tangent = torch.func.jvp(end, (y0,), (along,))[1]
        torch.testing.assert_close(tangent, jacobian @ along)


@pytest.mark.parametrize("solver", IMPLICIT)
def test_function_transforms_go_through_implicit_stages(solver: str) -> None:
    def total(y0: Tensor) -> Tensor:
        return solve(lambda t, y: -(y**2), y0, [0.0, 1.0], solver=solver, step_size=0.25).y1.sum()

    y0 = torch.tensor([0.5, 1.5], dtype=DOUBLE, requires_grad=True)
    torch.testing.assert_close(torch.func.grad(total)(y0.detach()), torch.autograd.grad(total(y0), y0)[0])


@pytest.mark.parametrize("solver", IMPLICIT)
def test_a_second_derivative_is_refused_rather_than_wrong(solver: str) -> None:
    y0 = torch.tensor([0.5], dtype=DOUBLE, requires_grad=True)
    y1 = solve(lambda t, y: -(y**2), y0, [0.0, 1.0], solver=solver, step_size=0.25).y1
    (grad,) = torch.autograd.grad(y1.sum(), y0, create_graph=True)
    with pytest.raises(
        GradientError, match=r"an implicit step cannot be differentiated again.*Newton\(derivatives=2\)"
    ):
        (grad.sum() + y1.sum()).backward()


def test_no_graph_is_kept_of_the_iteration() -> None:
    """What is kept for the backward pass does not grow with the number of iterations."""
    nodes, cost = [], []
    for fraction in (0.5, 1e-9):
        solver = solver_class("implicit_euler")(newton=Newton(fraction=fraction, max_iterations=50))
        y0 = torch.tensor([0.5], dtype=DOUBLE, requires_grad=True)
        solution = solve(lambda t, y: torch.cos(3 * y), y0, [0.0, 1.0], solver=solver, step_size=0.25, rtol=1e-4)
        seen, pending = set(), [solution.y1.grad_fn]
        while pending:
            node = pending.pop()
            if node is not None and node not in seen:
                seen.add(node)
                pending += [parent for parent, _ in node.next_functions]
        nodes.append(len(seen))
        cost.append(solution.stats.nfe)
    assert nodes[0] == nodes[1]
    assert cost[0] < cost[1]


def test_a_contraction_that_is_too_slow_for_what_is_left_gets_a_new_jacobian() -> None:
    """Contracting by 0.19 an iteration, 15 of them gain eleven digits, and the tolerance asks for fourteen."""
    weight = torch.tensor([[-2.1788, 0.5684], [-1.0845, -1.3986]], dtype=DOUBLE)
    y0 = torch.tensor([0.9701, 0.7078], dtype=DOUBLE)

    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(y @ weight) - t * y**2

    exact = solver_class("implicit_euler")(newton=Newton(fraction=1e-4))
    solution = solve(f, y0, [0.0, 0.4], solver=exact, step_size=0.4, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        solution.y1, y0 + 0.4 * f(torch.tensor(0.4, dtype=DOUBLE), solution.y1), rtol=1e-13, atol=0
    )


@pytest.mark.parametrize(("name", "steps"), [("kvaerno3", {}), ("trapezoid", {"step_size": 0.1})])
def test_an_f_that_is_not_finite_is_told_from_an_iteration_that_diverges(name: str, steps: dict[str, float]) -> None:
    def breaks(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.where(t > 0.5, float("nan"), -y)

    broken = solve(breaks, torch.ones(2), [0.0, 1.0], solver=name, throw=False, **steps)
    assert broken.status is Status.NON_FINITE
    assert 0.3 < broken.t1 < 0.5 + 1e-6


@pytest.mark.parametrize("solver", ["implicit_euler", "kvaerno3", "kvaerno5", "radau5", "sdirk2", "trbdf2"])
def test_dense_output_of_an_l_stable_method_stays_bounded_where_the_start_is_wrong(solver: str) -> None:
    """y' = -10⁶ (y - cos t) from y = 2: within the first step, too, nothing grows by the stiffness."""
    y0 = torch.tensor([2.0], dtype=DOUBLE)
    solution = solve(lambda t, y: -1e6 * (y - torch.cos(t)), y0, [0.0, 1.0], solver=solver, step_size=0.1, dense=True)
    times = torch.linspace(0.001, 0.4, 150, dtype=DOUBLE)
    off = (solution.interpolate(times)[:, 0] - times.cos()).abs()
    assert float(off.max()) < 1.01
    assert float(off[times > 0.1].max()) < 2e-3
