"""Dense output of solves by row: what a row's interpolant gives is what that row alone gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import odekit
from odekit.errors import GradientError, InputError
from tests.problems import DOUBLE, SOLVERS, solver_class

B = 4
MU = torch.logspace(-1, -0.3, B, dtype=DOUBLE)
Y0 = torch.stack([torch.linspace(1, 2, B, dtype=DOUBLE), torch.zeros(B, dtype=DOUBLE)], -1)
SPANS = torch.tensor([[0.0, 2.0], [0.5, 1.5], [1.0, 0.0], [2.0, 1.0]], dtype=DOUBLE)
INSIDE = torch.tensor([[0.0, 0.77, 2.0], [1.49, 0.5, 0.51], [0.0, 0.3, 1.0], [1.9, 1.3, 1.31]], dtype=DOUBLE)
GENERAL = [name for name in SOLVERS if getattr(solver_class(name), "structure", "general") == "general"]


def vdp(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
    x, v = y.unbind(-1)
    return torch.stack([v, mu * (1 - x * x) * v - x * torch.cos(t.reshape(-1))], -1)


def options_of(name: str) -> dict[str, Any]:
    fixed = {} if solver_class(name).error_order is not None else {"step_size": 0.23}
    return {"solver": name, "rtol": 1e-4, "atol": 1e-6, **fixed}


def check(name: str) -> None:
    together = odekit.solve(vdp, Y0, SPANS, args=(MU,), batch="rows", **options_of(name))
    states, slopes = together.interpolate(INSIDE), together.derivative(INSIDE)
    assert states.shape == slopes.shape == (B, 3, 2)
    for b in range(B):
        alone = odekit.solve(vdp, Y0[b : b + 1], SPANS[b], args=(MU[b : b + 1],), **options_of(name))
        torch.testing.assert_close(states[b], alone.interpolate(INSIDE[b])[:, 0], rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(slopes[b], alone.derivative(INSIDE[b])[:, 0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["dopri5", "heun", "kvaerno3", "radau5", "rodas5p", "adams_bashforth_moulton"])
def test_each_row_is_interpolated_as_if_it_were_alone(name: str) -> None:
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", GENERAL)
def test_rows_of_every_solver(name: str) -> None:
    check(name)


@pytest.mark.parametrize("solver", ["tsit5", "adams_bashforth_moulton"])
def test_shapes_and_rows_that_do_not_cover_a_time(solver: str) -> None:
    y0, t = torch.rand(3, 2, dtype=DOUBLE), torch.tensor([[0.0, 1.0], [3.0, 0.5], [1.0, 1.0]], dtype=DOUBLE)
    found = odekit.solve(lambda t, y: -y, y0, t, batch="rows", solver=solver)
    assert found.interpolate(0.7).shape == (3, 2)
    several = found.interpolate([0.25, 1.0, 2.0])
    assert several.shape == (3, 3, 2)
    assert several[..., 0].isnan().tolist() == [[False, True, True], [False, False, False], [True, False, True]]
    for at, expected in zip([0.25, 1.0, 2.0], several, strict=True):
        torch.testing.assert_close(found.interpolate(at), expected, equal_nan=True)
    exact = torch.exp(-(1.0 - t[:, :1])) * y0
    torch.testing.assert_close(several[1], exact, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.derivative(1.0), -exact, rtol=1e-4, atol=1e-5)
    assert found.interpolate(torch.zeros(3, 0)).shape == (3, 0, 2)
    with pytest.raises(InputError, match="any row"):
        found.interpolate([0.5, 3.1])
    with pytest.raises(InputError, match=r"row 1 was solved for, from 3 to 0\.5"):
        found.interpolate([[0.5], [0.4], [1.0]])
    with pytest.raises(InputError, match="B = 3"):
        found.interpolate([[0.5], [0.4]])


@pytest.mark.parametrize("solver", ["dopri5", "adams_bashforth_moulton"])
def test_rows_that_fail_are_known_as_far_as_they_came(solver: str) -> None:
    y0 = torch.tensor([[0.5], [4.0], [0.1]], dtype=DOUBLE)  # the second is infinite at t = 0.25
    found = odekit.solve(lambda t, y: y**2, y0, [0.0, 1.0], batch="rows", throw=False, solver=solver)
    assert [status.ok for status in found.status] == [True, False, True]
    torch.testing.assert_close(found.interpolate(0.2), y0 / (1 - 0.2 * y0), rtol=1e-5, atol=1e-6)
    assert found.interpolate(0.9).isnan()[:, 0].tolist() == [False, True, False]


def test_nested_states_and_every_structure_of_time() -> None:
    y0 = {"a": torch.rand(3, 2, dtype=torch.complex128), "b": torch.rand(3, dtype=torch.complex128)}
    found = odekit.solve(lambda t, y: {"a": 1j * y["a"], "b": -y["b"]}, y0, [0.0, 1.0], batch="rows")
    states = found.interpolate(torch.tensor([0.2, 0.4]))
    assert states["a"].shape == (2, 3, 2)
    assert states["b"].shape == (2, 3)
    torch.testing.assert_close(states["b"][1], torch.exp(torch.tensor(-0.4, dtype=DOUBLE)) * y0["b"])


@pytest.mark.parametrize("times", [False, True])
@pytest.mark.parametrize("solver", ["bosh3", "radau5", "adams_bashforth_moulton"])
def test_gradients_flow_as_they_do_for_a_row_alone(solver: str, times: bool) -> None:
    options = options_of(solver)

    def gradients(rows: slice, **batch: Any) -> list[Tensor]:
        y0, mu = Y0[rows].clone().requires_grad_(), MU[rows].clone().requires_grad_()
        spans = SPANS[rows].clone().requires_grad_(times)
        at = INSIDE[rows].clone().requires_grad_()
        if batch:
            found = odekit.solve(vdp, y0, spans, args=(mu,), **batch, **options)
            states = found.interpolate(at)
        else:
            found = odekit.solve(vdp, y0, spans[0], args=(mu,), **options)
            states = found.interpolate(at[0])[:, 0][None]
        wanted = [y0, mu, at, *([spans] if times else [])]
        return list(torch.autograd.grad((states * torch.tensor([1.0, 2.0], dtype=DOUBLE)).sum(), wanted))

    together = gradients(slice(0, B), batch="rows")
    for b in range(B):
        for found, expected in zip(together, gradients(slice(b, b + 1)), strict=True):
            torch.testing.assert_close(found[b : b + 1], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("solver", ["dopri5", "adams_bashforth_moulton"])
@pytest.mark.parametrize("gradient", ["checkpointed", "adjoint"])
def test_other_gradient_methods_keep_steps_if_told_to(gradient: str, solver: str) -> None:
    y0 = torch.ones(2, 1, dtype=DOUBLE, requires_grad=True)
    options = {"batch": "rows", "gradient": gradient, "solver": solver}
    found = odekit.solve(lambda t, y: -y, y0, [0.0, 1.0], **options)
    with pytest.raises(InputError, match="dense=True"):
        found.interpolate(0.5)
    found = odekit.solve(lambda t, y: -y, y0, [0.0, 1.0], dense=True, **options)
    with pytest.raises(GradientError, match="direct"):
        found.interpolate(0.5).sum().backward()
    with torch.no_grad():
        found = odekit.solve(lambda t, y: -y, y0, [0.0, 1.0], **options)
    torch.testing.assert_close(found.interpolate(0.5), torch.full((2, 1), 0.5, dtype=DOUBLE).neg().exp())


def test_steps_that_were_not_kept() -> None:
    found = odekit.solve(lambda t, y: -y, Y0, [0.0, 1.0], batch="rows", dense=False)
    with pytest.raises(InputError, match="dense=True"):
        found.interpolate(0.5)
