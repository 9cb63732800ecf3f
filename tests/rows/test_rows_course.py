"""What a solve by rows does on its way: every step saved, functions of outputs, forced stops, jumps of f, hooks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import odekit
from odekit.errors import InputError
from tests.problems import DOUBLE

B = 4
MU = torch.logspace(-1, -0.3, B, dtype=DOUBLE)
Y0 = torch.stack([torch.linspace(1, 2, B, dtype=DOUBLE), torch.zeros(B, dtype=DOUBLE)], -1)
SPANS = torch.tensor([[0.0, 2.0], [0.5, 1.5], [1.0, 0.0], [1.2, 2.0]], dtype=DOUBLE)
LOOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-6}
EXACT = ["direct", "checkpointed"]


def vdp(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
    x, v = y.unbind(-1)
    return torch.stack([v, mu * (1 - x * x) * v - x * torch.cos(t.reshape(-1))], -1)


def switched(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
    """Jumps at t = 0.8 and t = 1.1; wrong by far if it is asked on the wrong side."""
    where = t.reshape(-1)
    drive = torch.where(where < 0.8, 1.0, torch.where(where < 1.1, -20.0, 3.0)) * mu
    return torch.stack([y[:, 1], drive - y[:, 0]], -1)


def alone(b: int, f: Any, **options: Any) -> odekit.Solution:
    return odekit.solve(f, Y0[b : b + 1], SPANS[b], args=(MU[b : b + 1],), **options)


@pytest.mark.parametrize("solver", ["dopri5", "kvaerno3", "adams_bashforth_moulton"])
def test_every_step_is_that_of_the_row_alone(solver: str) -> None:
    found = odekit.solve(vdp, Y0, SPANS, args=(MU,), batch="rows", save="steps", solver=solver, **LOOSE)
    accepted = found.stats.accepted
    assert found.ts.shape == (B, int(accepted.max()) + 1)
    assert found.ys.shape == (*found.ts.shape, 2)
    for b in range(B):
        expected, n = alone(b, vdp, save="steps", solver=solver, **LOOSE), int(accepted[b]) + 1
        torch.testing.assert_close(found.ts[b, :n], expected.ts, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.ys[b, :n], expected.ys[:, 0], rtol=1e-8, atol=1e-8)
        assert found.ts[b, n:].isnan().all()
        assert found.ys[b, n:].isnan().all()
    torch.testing.assert_close(found.t1, SPANS[:, 1])


def test_every_step_of_rows_at_rest_and_rows_that_fail() -> None:
    y0 = torch.tensor([[0.5], [4.0], [0.1]], dtype=DOUBLE)
    t = torch.tensor([[0.0, 1.0], [0.0, 1.0], [2.0, 2.0]], dtype=DOUBLE)
    for solver in ("dopri5", "adams_bashforth_moulton"):
        found = odekit.solve(lambda t, y: y**2, y0, t, batch="rows", save="steps", throw=False, solver=solver)
        counts = found.ts.isfinite().sum(1)
        assert counts.equal(found.stats.accepted + 1)
        assert int(counts[2]) == 1
        torch.testing.assert_close(found.ys[2, 0], y0[2])
        torch.testing.assert_close(found.y1[2], y0[2])
        torch.testing.assert_close(found.ts[1, int(counts[1]) - 1], found.t1[1])


def _steps_gradients(gradient: str, solver: str, **options: Any) -> list[Tensor]:
    y0, mu, spans = (x.clone().requires_grad_() for x in (Y0, MU, torch.cat([SPANS[:3], SPANS[3:, :1].expand(1, 2)])))
    options = {"rtol": 1e-3, "atol": 1e-4, **options}
    found = odekit.solve(
        vdp, y0, spans, args=(mu,), batch="rows", save="steps", gradient=gradient, solver=solver, **options
    )
    ts, ys = found.ts.nan_to_num(), found.ys.nan_to_num()
    loss = (ys * torch.tensor([1.0, 2.0], dtype=DOUBLE)).sum() + (ts**2).sum() + (found.y1**2).sum()
    return list(torch.autograd.grad(loss, [y0, mu, spans]))


@pytest.mark.parametrize("solver", ["dopri5", "kvaerno3", "adams_bashforth_moulton"])
def test_gradients_of_every_step(solver: str) -> None:
    direct = _steps_gradients("direct", solver)
    for found, expected in zip(_steps_gradients("checkpointed", solver), direct, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    if solver == "dopri5":
        tight: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-9}
        adjoint = _steps_gradients("adjoint", solver, **tight)
        for found, expected in zip(adjoint, _steps_gradients("direct", solver, **tight), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gradient", [*EXACT, "adjoint"])
def test_a_function_of_every_output(gradient: str) -> None:
    y0 = Y0.clone().requires_grad_()
    options: dict[str, Any] = {"args": (MU,), "batch": "rows", "gradient": gradient}

    def save(t: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"x": y[:, 0] * t, "all": y.sum()}

    shared = odekit.solve(vdp, y0, [0.0, 0.3, 1.0], save=save, **options)
    plain = odekit.solve(vdp, y0, [0.0, 0.3, 1.0], **options)
    torch.testing.assert_close(shared.ys["x"], plain.ys[..., 0] * plain.ts[:, None])
    torch.testing.assert_close(shared.ys["all"], plain.ys.sum((1, 2)))
    own = odekit.solve(vdp, y0, SPANS, save=save, **options)
    torch.testing.assert_close(own.ys["x"], odekit.solve(vdp, y0, SPANS, **options).ys[..., 0] * SPANS)
    found, expected = (torch.autograd.grad(x.sum(), y0)[0] for x in (shared.ys["all"], plain.ys))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("solver", ["dopri5", "radau5", "adams_bashforth_moulton", "rk4"])
def test_forced_stops_and_discontinuities_are_those_of_the_row_alone(solver: str) -> None:
    options: dict[str, Any] = {"solver": solver, "step_times": [0.9, 7.0], "jump_times": [1.1, 0.8], "save": "steps"}
    options |= {"step_size": 0.13} if solver == "rk4" else LOOSE
    found = odekit.solve(switched, Y0, SPANS, args=(MU,), batch="rows", **options)
    assert any(0.9 in row for row in found.ts.tolist())
    for b in range(B):
        expected = alone(b, switched, **options)
        n = len(expected.ts)
        assert n == int(found.stats.accepted[b]) + 1
        torch.testing.assert_close(found.ts[b, :n], expected.ts, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.ys[b, :n], expected.ys[:, 0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_f_is_asked_for_its_limits_from_either_side(dtype: torch.dtype) -> None:
    """f is constant on either side, so that one call on the wrong side would show in the result."""
    y0 = torch.zeros(3, 1, dtype=dtype)
    spans = [[0.0, 1.0], [1.0, 0.0], [0.3, 0.9]]

    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t < 0.3, 1.0, -2.0).to(dtype).expand_as(y)

    for solver in ("dopri5", "implicit_midpoint"):
        options: dict[str, Any] = {"step_size": 0.5} if solver == "implicit_midpoint" else {}
        found = odekit.solve(f, y0, spans, batch="rows", jump_times=[0.3], solver=solver, **options)
        expected = torch.tensor([[0.3 - 1.4], [1.4 - 0.3], [-1.2]], dtype=dtype)
        torch.testing.assert_close(found.y1, expected, rtol=1e-6, atol=1e-6)


def _jump_gradients(gradient: str, solver: str, **options: Any) -> list[Tensor]:
    y0, mu, spans = (x.clone().requires_grad_() for x in (Y0, MU, SPANS))
    options = {"rtol": 1e-3, "atol": 1e-4, "jump_times": [0.8, 1.1], **options}
    found = odekit.solve(switched, y0, spans, args=(mu,), batch="rows", gradient=gradient, solver=solver, **options)
    return list(torch.autograd.grad((found.y1 * torch.tensor([1.0, 2.0], dtype=DOUBLE)).sum(), [y0, mu, spans]))


@pytest.mark.parametrize("solver", ["dopri5", "kvaerno3", "rosenbrock23", "radau5"])
def test_gradients_across_discontinuities(solver: str) -> None:
    direct = _jump_gradients("direct", solver)
    for found, expected in zip(_jump_gradients("checkpointed", solver), direct, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


def test_the_adjoint_across_discontinuities() -> None:
    tight: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-9}
    adjoint = _jump_gradients("adjoint", "dopri5", **tight)[:2]
    for found, expected in zip(adjoint, _jump_gradients("direct", "dopri5", **tight)[:2], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_dense_output_across_a_discontinuity() -> None:
    options: dict[str, Any] = {"jump_times": [0.8, 1.1], **LOOSE}
    found = odekit.solve(switched, Y0, SPANS, args=(MU,), batch="rows", **options)
    at = torch.stack([torch.linspace(*span, 7, dtype=DOUBLE) for span in SPANS.tolist()])
    for b, states in enumerate(found.interpolate(at)):
        torch.testing.assert_close(states, alone(b, switched, **options).interpolate(at[b])[:, 0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("limits", [{"dt_max": 0.1}, {"first_step": 1e-3}, {"dt_min": 0.05}])
def test_bounds_on_steps(limits: dict[str, float]) -> None:
    options: dict[str, Any] = {"save": "steps", "throw": False, **LOOSE, **limits}
    found = odekit.solve(vdp, Y0, SPANS, args=(MU,), batch="rows", **options)
    for b in range(B):
        expected = alone(b, vdp, **options)
        torch.testing.assert_close(found.ts[b, : len(expected.ts)], expected.ts, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", ["dopri5", "adams_bashforth_moulton"])
def test_hooks_see_where_all_rows_are(solver: str) -> None:
    tried, counted, rejected = (np.zeros(B, dtype=int) for _ in range(3))
    reached: list[np.ndarray] = []

    def count(into: np.ndarray) -> Any:
        def hook(t0: np.ndarray, t1: np.ndarray, y0: Tensor) -> None:
            assert t0.shape == t1.shape == (B,)
            assert y0.shape == (B, 2)
            into[:] += t0 != t1

        return hook

    def note(t: np.ndarray, y: Tensor) -> None:
        assert y.shape == (B, 2)
        reached.append(t)

    hooks = odekit.Callbacks(attempt=count(tried), accept=count(counted), reject=count(rejected), reached=note)
    found = odekit.solve(vdp, Y0, SPANS, args=(MU,), batch="rows", callback=hooks, solver=solver, **LOOSE)
    assert tried.tolist() == found.stats.steps.tolist()
    assert rejected.tolist() == found.stats.rejected.tolist()
    if solver == "dopri5":
        assert counted.tolist() == found.stats.accepted.tolist()
    assert reached[-1].tolist() == SPANS[:, 1].tolist()
    seen: list[Tensor] = []
    odekit.solve(vdp, Y0, SPANS, args=(MU,), batch="rows", callback=lambda t, y: seen.append(y), **LOOSE)
    torch.testing.assert_close(seen[-1], odekit.solve(vdp, Y0, SPANS, args=(MU,), batch="rows", **LOOSE).y1)


def test_times_that_are_none() -> None:
    for name in ("step_times", "jump_times"):
        with pytest.raises(InputError, match=name):
            odekit.solve(vdp, Y0, SPANS, args=(MU,), batch="rows", **{name: [float("nan")]})
        with pytest.raises(InputError, match="sequence"):
            odekit.solve(vdp, Y0, SPANS, args=(MU,), batch="rows", **{name: 0.5})
