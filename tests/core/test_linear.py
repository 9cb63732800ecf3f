"""The three ways to solve linear systems agree, and implicit methods have the stability that they claim."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from problems import DOUBLE, solver_class
from torch import Tensor

from odekit import solve
from odekit.core.linear import GMRES, Dense, Rows
from odekit.errors import GradientError, InputError

STEPS = np.array([0.1, 0.2, 0.3, 0.4])


def field(y: Tensor) -> Tensor:
    return (y.flip(-1) * y.sin()).cumsum(-1)


def point(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "h", [0.3, 0.3 + 0.2j, STEPS, STEPS * (1 + 1j)], ids=["real", "complex", "rows", "complex rows"]
)
@pytest.mark.parametrize("adjoint", [False, True])
def test_gmres_solves_what_blocks_solve(h: Any, adjoint: bool) -> None:
    y, right = point(0, 4, 3), point(1, 4, 3)
    right = right + 0.5j * right if np.iscomplexobj(h) else right
    made = [way.linearised(field, y) for way in (Rows(), GMRES().by_row())]
    found = [(part.adjoint() if adjoint else part).factored(h).solve(right) for part in made]
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("ways", [(Dense(), GMRES()), (Rows(), GMRES().by_row())], ids=["whole", "rows"])
def test_coupled_stages_are_solved_for_together(ways: tuple[Any, Any]) -> None:
    points, right = [point(seed, 4, 3) for seed in (0, 1)], point(2, 2, 4, 3)
    weights = np.array([[0.1, 0.2], [0.3, -0.1]])
    jacobians = [torch.autograd.functional.jacobian(field, y).reshape(12, 12) for y in points]
    blocks = [[weights[i, j] * jacobians[j] for j in range(2)] for i in range(2)]
    matrix = torch.eye(24, dtype=DOUBLE) - torch.cat([torch.cat(row, 1) for row in blocks])
    expected = torch.linalg.solve(matrix, right.reshape(-1)).reshape(right.shape)
    for way in ways:
        found = way.coupled([way.linearised(field, y) for y in points], weights).solve(right)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_gmres_that_cannot_solve_for_a_gradient_says_so() -> None:
    system = GMRES(restart=1, max_restarts=1).linearised(field, point(0, 12)).factored(5.0)
    with pytest.raises(GradientError, match=r"GMRES left .*restart= or max_restarts="):
        system.solve(point(1, 12))


def test_settings_of_gmres_are_checked() -> None:
    with pytest.raises(InputError, match="restart=0: expected an integer >= 1"):
        GMRES(restart=0)


@pytest.mark.parametrize("name", ["kvaerno3", "radau5", "gauss4"])
def test_the_way_of_solving_does_not_show(name: str) -> None:
    """Neither in the answer nor in its gradient."""
    y0, found = point(0, 3, 2), []
    for way in ("dense", "rows", "gmres"):
        weight = point(1, 2, 2).requires_grad_()
        y1 = solve(
            lambda t, y, w: torch.tanh(y @ w) - 20 * y + torch.cos(t), y0, [0.0, 0.5], args=(weight,),
            solver=solver_class(name)(linear=way), step_size=0.1,
        ).y1  # fmt: skip
        found.append((y1.detach(), *torch.autograd.grad(y1.square().sum(), weight)))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["kvaerno3", "radau5", "trbdf2"])
def test_a_row_does_not_depend_on_its_neighbours(name: str) -> None:
    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([-200 * (y[..., 0] - y[..., 1] ** 2), -y[..., 1] + torch.cos(t)[:, 0] / 2], -1)

    y0 = point(0, 4, 2) * torch.tensor([[1.0], [5.0], [0.1], [20.0]], dtype=DOUBLE)
    together = solve(f, y0, [0.0, 1.0], solver=name, batch="rows").y1
    alone = torch.cat([solve(f, row[None], [0.0, 1.0], solver=name, batch="rows").y1 for row in y0])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-12)


def stability(name: str, z: np.ndarray) -> np.ndarray:
    """|R(z)|, from the tableau."""
    tableau = solver_class(name).tableau
    s = len(tableau.b)
    a = np.array([[*row, *[0.0] * (s - len(row))] for row in tableau.a])
    one = np.eye(s)
    return np.array([abs(1 + x * np.asarray(tableau.b) @ np.linalg.solve(one - x * a, np.ones(s))) for x in z])


L_STABLE = ["implicit_euler", "trbdf2", "kvaerno3", "radau3", "radau5"]
A_STABLE = ["implicit_midpoint", "trapezoid", "gauss4", "gauss6"]


@pytest.mark.parametrize("name", L_STABLE + A_STABLE)
def test_a_stable(name: str) -> None:
    """|R| ≤ 1 on the imaginary axis, hence everywhere to the left of it, where R has no pole."""
    assert stability(name, 1j * np.logspace(-3, 6, 400)).max() < 1 + 1e-9
    assert bool(stability(name, np.array([-1e7]))[0] < 1e-3) is (name in L_STABLE)


@pytest.mark.parametrize("name", ["radau5", "kvaerno3"])
def test_infinitely_stiff_components_follow_their_equilibrium(name: str) -> None:
    """Prothero & Robinson 1974: y' = -10⁸ (y - sin t) + cos t."""
    f_y0 = torch.tensor([0.3], dtype=DOUBLE).sin()
    y1 = solve(lambda t, y: -1e8 * (y - torch.sin(t)) + torch.cos(t), f_y0, [0.3, 1.3], solver=name, step_size=0.1).y1
    torch.testing.assert_close(y1, torch.tensor([1.3], dtype=DOUBLE).sin(), rtol=0, atol=1e-8)


def test_jacobians_are_reused() -> None:
    def van_der_pol(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[1], 1000 * (1 - y[0] ** 2) * y[1] - y[0]])

    y0 = torch.tensor([2.0, 0.0], dtype=DOUBLE)
    stats = solve(van_der_pol, y0, [0.0, 300.0], solver="radau5", rtol=1e-6, atol=1e-9).stats
    assert stats.jacobians < stats.accepted / 2
