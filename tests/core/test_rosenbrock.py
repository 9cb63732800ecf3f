"""Rosenbrock tables that check themselves, stiff steps without an iteration, and gradients through the Jacobian."""

from __future__ import annotations

import attrs
import pytest
import torch
from problems import DOUBLE, slope, solver_class
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from odekit import Status, solve
from odekit.core.expansion import expand
from odekit.core.rosenbrock import RosenbrockMethod
from odekit.errors import InputError, TableauError

ROSENBROCK = ["rosenbrock23", "rodas4", "rodas5p"]


@pytest.mark.parametrize("name", ROSENBROCK)
def test_tables_have_exactly_their_order(name: str) -> None:
    solver = solver_class(name)
    assert solver.table.defect(solver.table.m, solver.order)[0] < 1e-11
    assert solver.table.defect(solver.table.m, solver.order + 1)[0] > 1e-6


@pytest.mark.parametrize("name", ROSENBROCK)
def test_a_wrong_coefficient_is_caught(name: str) -> None:
    solver = solver_class(name)
    table = attrs.evolve(solver.table, m=(solver.table.m[0] + 1e-6, *solver.table.m[1:]))
    with pytest.raises(TableauError, match="order condition of order 1"):
        type("Wrong", (RosenbrockMethod,), {"name": "wrong", "order": solver.order, "table": table})


def test_row_sums_that_time_dependent_problems_need_are_checked() -> None:
    table = solver_class("rodas4").table
    with pytest.raises(TableauError, match=r"slopes\[1\] is -0\.1, but its row sums to -0\.1043"):
        attrs.evolve(table, slopes=(0.25, -0.1, *table.slopes[2:]))
    with pytest.raises(TableauError, match=r"nodes\[1\] is 0\.4, but its row sums to 0\.386"):
        attrs.evolve(table, nodes=(0, 0.4, *table.nodes[2:]))


def test_a_way_without_a_matrix_is_refused() -> None:
    with pytest.raises(InputError, match="factors the whole matrix; expected 'auto', 'rows' or 'dense'"):
        solver_class("rodas4")(linear="gmres")


def test_the_expansion_is_that_of_autograd_and_differentiable() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 3, dtype=DOUBLE, generator=generator).requires_grad_()
    y = torch.randn(3, dtype=DOUBLE, generator=generator).requires_grad_()
    t = torch.tensor(0.3, dtype=DOUBLE)

    def parts(y: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        near = expand(lambda t, y: torch.sin(t * y) @ weight * torch.exp(t), t, y, rows=False)
        return near.value, near.by_time, near.matrix

    _, by_time, matrix = parts(y, weight)
    both = torch.autograd.functional.jacobian(lambda t, y: torch.sin(t * y) @ weight * torch.exp(t), (t, y))
    torch.testing.assert_close(by_time, both[0])
    torch.testing.assert_close(matrix, both[1])
    assert gradcheck(parts, (y, weight))


@pytest.mark.parametrize("name", ROSENBROCK)
def test_a_wrong_start_is_forgotten_in_one_step(name: str) -> None:
    """y' = -10⁶ (y - cos t) - sin t from y = 2, whose smooth solution is cos t (Prothero & Robinson 1974)."""

    def f(t: Tensor, y: Tensor) -> Tensor:
        return -1e6 * (y - torch.cos(t)) - torch.sin(t)

    times = torch.linspace(0, 1, 11, dtype=DOUBLE)
    ys = solve(f, torch.tensor([2.0], dtype=DOUBLE), times, solver=name, step_size=0.1).ys[:, 0]
    torch.testing.assert_close(ys[1:], times[1:].cos(), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("name", "order"), [("rodas4", 3), ("rodas5p", 4)])
def test_the_order_on_a_stiff_problem_does_not_fall_below_what_the_papers_say(name: str, order: int) -> None:
    def f(t: Tensor, y: Tensor) -> Tensor:
        return -100 * (y - torch.cos(t)) - torch.sin(t)

    sizes = [0.1, 0.05, 0.025]
    y0, end = torch.ones(1, dtype=DOUBLE), torch.tensor(1.0, dtype=DOUBLE)
    errors = [float((solve(f, y0, [0, 1], solver=name, step_size=h).y1 - end.cos()).abs()) for h in sizes]
    assert errors[-1] < 1e-6
    assert slope(sizes, errors) > order - 1.2


@pytest.mark.parametrize("gradient", ["direct", "checkpointed"])
def test_exact_gradients_go_through_the_jacobian(gradient: str) -> None:
    def end(y0: Tensor, weight: Tensor, t: Tensor) -> Tensor:
        return solve(
            lambda t, y: torch.tanh(y @ weight) - t * y**2, y0, t, solver="rodas4", gradient=gradient, step_size=0.5
        ).ys

    generator = torch.Generator().manual_seed(0)
    y0 = torch.rand(3, 2, dtype=DOUBLE, generator=generator).requires_grad_()
    weight = torch.randn(2, 2, dtype=DOUBLE, generator=generator).requires_grad_()
    t = torch.tensor([0.0, 0.3, 1.0], dtype=DOUBLE, requires_grad=True)
    assert gradcheck(end, (y0, weight, t))


def test_second_derivatives_too() -> None:
    y0 = torch.tensor([0.5, 1.5], dtype=DOUBLE, requires_grad=True)
    assert gradgradcheck(lambda y: solve(lambda t, y: -(y**2), y, [0, 1], solver="rodas4", step_size=0.5).y1, (y0,))


@pytest.mark.parametrize("name", [*ROSENBROCK, "bdf"])
def test_complex_states_and_single_precision(name: str) -> None:
    rates = torch.tensor([3j, -1000 + 50j], dtype=torch.complex64)
    y0 = torch.tensor([1.0, 0.5], dtype=torch.complex64)
    found = solve(lambda t, y: rates * y + 0.1 * y**2, y0, [0.0, 0.5], solver=name, rtol=1e-4, atol=1e-5).y1
    exact = rates / ((rates / y0 + 0.1) * torch.exp(-rates * 0.5) - 0.1)
    assert found.dtype == torch.complex64
    torch.testing.assert_close(found[0], exact[0], rtol=0, atol=3e-3)


def test_a_singular_matrix_is_a_status() -> None:
    """With y' = y/(γ h) the matrix I - h γ ∂f/∂y is 0."""
    rate = 1 / (0.25 * 0.5)
    solution = solve(lambda t, y: rate * y, torch.ones(1), [0, 1], solver="rodas4", step_size=0.5, throw=False)
    assert solution.status is Status.NON_FINITE
