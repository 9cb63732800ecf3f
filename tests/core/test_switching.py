"""Switching between an explicit and a stiff method: when, at what cost, and that nothing shows of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import groupby
from typing import Any

import pytest
import torch
from odekit_solvers.auto_tsit5 import AutoTsit5
from problems import DOUBLE, close, solver_class
from torch import Tensor

from odekit import Status, solve
from odekit.core.protocols import ODESolver, Step
from odekit.core.switching import Switching, real_stability
from odekit.errors import InputError, SolveError, TableauError

H = 1 / 64
ON_EDGE, AT_EASE = 3.3 / H, 1.0 / H
"""Rates with which a step of size H is on the edge of what tsit5 damps, and far from it."""


def watched() -> tuple[ODESolver, list[bool]]:
    """auto_tsit5, and for every step that it is going to take whether the stiff method takes it."""
    stiff: list[bool] = []

    class Watched(AutoTsit5):
        def step(self, f: Any, t0: Any, t1: Any, y0: Tensor, carry: Any) -> Step:
            stiff.append(carry.stiff)
            return super().step(f, t0, t1, y0, carry)

    return Watched(), stiff


def relaxation(rate: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """Pulls y to scale * cos t, which is a solution whatever the rate."""

    def f(t: Tensor, y: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        return -rate(t) * (y - scale * torch.cos(t)) - scale * torch.sin(t)

    return f


def swinging(t: Tensor) -> Tensor:
    """Between 1, in the middle of [0, 10], and 1000 at its ends."""
    return 10 ** (1.5 + 1.5 * torch.cos(2 * math.pi * t / 10))


def on_edge_but_between(first: int, last: int) -> Callable[..., Tensor]:
    """Steps of size H are on the edge, but for those that end at the times first H < t <= last H."""

    def rate(t: Tensor) -> Tensor:
        return torch.where((t > (first + 0.5) * H) & (t < (last + 0.5) * H), AT_EASE, ON_EDGE).to(t.dtype)

    return relaxation(rate)


def lotka_volterra(t: Tensor, y: Tensor) -> Tensor:
    prey, predators = y.unbind(-1)
    return torch.stack([prey * (1.5 - predators), predators * (prey - 3)], -1)


def van_der_pol(t: Tensor, y: Tensor) -> Tensor:
    x, v = y.unbind(-1)
    return torch.stack([v, 1000 * (1 - x**2) * v - x], -1)


def robertson(t: Tensor, y: Tensor) -> Tensor:
    a, b, c = y.unbind(-1)
    slow, back, fast = 0.04 * a, 1e4 * b * c, 3e7 * b**2
    return torch.stack([back - slow, slow - back - fast, fast], -1)


def ones(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=DOUBLE)


@pytest.mark.parametrize(
    ("name", "end"), [("euler", 2.0), ("rk4", 2.785293563405282), ("dopri5", 3.3066), ("tsit5", 3.5068)]
)
def test_where_stability_ends(name: str, end: float) -> None:
    """|R(-x)| passes 1 there, as steps of y' = -y show; the numbers are those of the literature."""
    found = real_stability(solver_class(name).tableau)
    assert found == pytest.approx(end, abs=5e-5)
    for x, grows in ((0.99 * found, False), (1.01 * found, True)):
        assert (abs(solve(lambda t, y: -y, ones(1), [0.0, x], solver=name, step_size=x).y1.item()) > 1) is grows


def test_what_is_not_stiff_is_solved_by_tsit5_to_the_last_bit() -> None:
    times = [0.0, 1.3, 10.0]
    auto, plain = (solve(lotka_volterra, ones(2), times, solver=name, rtol=1e-6) for name in ("auto_tsit5", "tsit5"))
    assert torch.equal(auto.ys, plain.ys)
    assert (auto.stats.nfe, auto.stats.steps, auto.stats.jacobians) == (plain.stats.nfe, plain.stats.steps, 0)


@pytest.mark.parametrize(
    ("f", "y0", "t1"),
    [
        pytest.param(robertson, [1.0, 0.0, 0.0], 1e4, id="robertson"),
        pytest.param(van_der_pol, [2.0, 0.0], 2000.0, id="van der pol", marks=pytest.mark.slow),
    ],
)
def test_what_is_stiff_takes_about_the_steps_of_rodas5p(f: Any, y0: list[float], t1: float) -> None:
    """And tsit5 does not get far with four times as many."""
    start = torch.tensor(y0, dtype=DOUBLE)
    options: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-10}
    auto = solve(f, start, [0.0, t1], solver="auto_tsit5", **options)
    rodas = solve(f, start, [0.0, t1], solver="rodas5p", **options)
    assert auto.stats.accepted < 2 * rodas.stats.accepted
    assert auto.stats.jacobians < 1.2 * rodas.stats.jacobians
    budget = 4 * rodas.stats.steps
    plain = solve(f, start, [0.0, t1], solver="tsit5", max_steps=budget, throw=False, **options)
    assert plain.status is Status.MAX_STEPS
    close(auto.y1, rodas.y1, 1e-3)


def test_it_switches_there_and_back_and_there_again() -> None:
    solver, stiff = watched()
    times = torch.linspace(0, 10, 151, dtype=DOUBLE)
    solution = solve(relaxation(swinging), ones(1), times, solver=solver, rtol=1e-5, atol=1e-5, dense=True)
    assert [mode for mode, _ in groupby(stiff)] == [False, True, False, True]
    close(solution.ys[:, 0], times.cos(), 1e-3)
    close(solution.interpolate(times)[:, 0], times.cos(), 1e-3)
    close(solution.derivative(times)[:, 0], -times.sin(), 1e-2)


@pytest.mark.parametrize("backwards", [False, True])
def test_it_takes_fifteen_steps_on_the_edge_to_become_stiff(backwards: bool) -> None:
    """With fixed steps every step of a linear equation has the very same rate."""
    for rate, explicit in ((ON_EDGE, 15), (0.9 * ON_EDGE, 20)):
        solver, stiff = watched()
        sign = -1 if backwards else 1
        f = relaxation(lambda t, r=sign * rate: r)  # type: ignore[misc]
        stats = solve(f, ones(1), [0.0, sign * 20 * H], solver=solver, step_size=H).stats
        assert stiff == [False] * explicit + [True] * (20 - explicit)
        assert stats.jacobians == 20 - explicit


def test_five_steps_at_ease_are_enough_to_go_back() -> None:
    solver, stiff = watched()
    solve(on_edge_but_between(20, 64), ones(1), [0.0, 40 * H], solver=solver, step_size=H)
    first_at_ease = 21  # the one before it begins, with its Jacobian, on the edge
    assert stiff == [False] * 15 + [True] * (first_at_ease + 5 - 15) + [False] * (40 - first_at_ease - 5)


@pytest.mark.parametrize(("pause", "explicit"), [(5, 20), (6, 31)])
def test_six_steps_at_ease_are_enough_to_forget(pause: int, explicit: int) -> None:
    """After ten steps on the edge; five more then make it stiff, or fifteen."""
    solver, stiff = watched()
    solve(on_edge_but_between(10, 10 + pause), ones(1), [0.0, 40 * H], solver=solver, step_size=H)
    assert stiff == [False] * explicit + [True] * (40 - explicit)


def test_it_begins_anew_after_a_discontinuity() -> None:
    solver, stiff = watched()
    options: dict[str, Any] = {"step_size": H, "jump_times": [20 * H]}
    solve(relaxation(lambda t: t * 0 + ON_EDGE), ones(1), [0.0, 40 * H], solver=solver, **options)
    assert stiff == ([False] * 15 + [True] * 5) * 2


def test_exact_gradients_through_switches() -> None:
    """There and back; the answer is scale * cos t, wherever in a step it is asked for."""
    at, weights = torch.tensor([0.0, 12.3, 17.7, 30.1, 40.0], dtype=DOUBLE) * H, torch.arange(1.0, 6.0, dtype=DOUBLE)
    grads = []
    for gradient in ("direct", "checkpointed"):
        solver, stiff = watched()
        scale, times = torch.tensor(1.2, dtype=DOUBLE, requires_grad=True), at.clone().requires_grad_()
        options: dict[str, Any] = {"gradient": gradient, "step_size": H, "args": (scale,), "solver": solver}
        ys = solve(on_edge_but_between(20, 64), scale * ones(1), times, **options).ys
        assert [mode for mode, _ in groupby(stiff)] == [False, True, False]
        by_scale, by_time = torch.autograd.grad((weights * ys[:, 0]).sum(), [scale, times])
        close(by_scale, (weights * at.cos()).sum(), 1e-3)
        close(by_time[1:-1], (-1.2 * weights * at.sin())[1:-1], 0.1)
        grads += [by_scale, by_time]
    torch.testing.assert_close(grads[:2], grads[2:], rtol=1e-9, atol=1e-9)


def test_the_adjoint_is_stiff_where_its_problem_is() -> None:
    """Around y = 0, which stays 0 both ways, so that the backward solve lives to tell."""
    scale = torch.zeros((), dtype=DOUBLE, requires_grad=True)
    options: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-6, "solver": "auto_tsit5", "gradient": "adjoint"}
    f = relaxation(lambda t: t * 0 + 1000.0)
    solution = solve(f, 0 * ones(1), [0.0, 1.0], args=(scale,), **options)
    (by_scale,) = torch.autograd.grad(solution.y1.sum(), scale)
    close(by_scale, math.cos(1.0), 1e-4)
    assert solution.stats.steps_backward < 100  # tsit5 alone takes 1000 / 3.5


def test_the_adjoint_of_what_is_stiff_is_an_error_that_says_so() -> None:
    """Solved backwards a fast decay is a fast growth, for whichever method."""
    y0 = ones(1).requires_grad_()
    options: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4, "solver": "auto_tsit5", "gradient": "adjoint"}
    y1 = solve(relaxation(lambda t: t * 0 + 1000.0), y0, [0.0, 1.0], **options).y1
    with pytest.raises(SolveError, match="gradient='checkpointed' has no backward solve to fail"):
        y1.sum().backward()


@pytest.mark.parametrize("linear", ["auto", "dense", "rows"])
def test_batches_share_their_steps(linear: str) -> None:
    solver = AutoTsit5(linear=linear)
    scales = torch.tensor([[1.0], [2.0], [-0.5]], dtype=DOUBLE)
    solution = solve(relaxation(swinging), scales, [0.0, 2.0], args=(scales,), solver=solver, rtol=1e-6, atol=1e-6)
    close(solution.y1, math.cos(2.0) * scales, 1e-4)
    assert solution.stats.jacobians > 0


def test_rows_switch_on_their_own() -> None:
    rates = torch.tensor([[1.0], [2000.0]], dtype=DOUBLE)

    def f(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
        return -rate * (y - torch.cos(t)) - torch.sin(t)

    options: dict[str, Any] = {"solver": "auto_tsit5", "rtol": 1e-6, "atol": 1e-6}
    rows = solve(f, ones(2, 1), [0.0, 2.0], args=(rates,), batch="rows", **options).y1
    alone = [solve(f, ones(1, 1), [0.0, 2.0], args=(rate,), **options) for rate in rates.split(1)]
    close(rows, torch.cat([each.y1 for each in alone]), 1e-10)
    assert [each.stats.jacobians > 0 for each in alone] == [False, True]


def test_complex_states() -> None:
    def f(t: Tensor, y: Tensor) -> Tensor:
        turning = torch.exp(1j * t)
        return (-1000 + 50j) * (y - turning) + 1j * turning

    y0 = torch.ones(1, dtype=torch.complex128)
    solution = solve(f, y0, [0.0, 2.0], solver="auto_tsit5", rtol=1e-6, atol=1e-6)
    close(solution.y1, [complex(math.cos(2.0), math.sin(2.0))], 1e-4)
    assert solution.stats.jacobians > 0


def test_pairs_that_make_no_method() -> None:
    with pytest.raises(TableauError, match=r"'bosh3' and 'rodas5p' have the orders 2 and 4; expected one and the same"):
        type("Wrong", (Switching,), {"nonstiff": solver_class("bosh3"), "stiff": solver_class("rodas5p")})
    with pytest.raises(TableauError, match="'bosh3' has no estimate of stiffness; expected its last two nodes"):
        type("Wrong", (Switching,), {"nonstiff": solver_class("bosh3"), "stiff": solver_class("rosenbrock23")})
    with pytest.raises(InputError, match="a Rosenbrock method factors the whole matrix"):
        AutoTsit5(linear="gmres")
