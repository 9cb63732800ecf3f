"""Symplectic compositions: their order, their energy, their symmetry, and the systems that they are for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from odekit_solvers.leapfrog import Leapfrog
from problems import DOUBLE, SEPARABLE, Counted, Reference, slope, solver_class
from torch import Tensor
from torch.autograd import gradcheck

from odekit import solve
from odekit.core.composition import Composition
from odekit.errors import InputError, OptionError, TableauError

ECCENTRICITY = 0.3
INNER = {"yoshida4": "suzuki4", "yoshida6": "kahan_li6"}
"""Compositions that leave their steps, and what they are where that would be outside the span."""

COUNTS = {2: (64, 128, 256), 4: (24, 48, 96), 6: (24, 36, 54)}


def kepler(t: Tensor, y: Tensor) -> Tensor:
    q, p = y.chunk(2, -1)
    return torch.cat([p, -q / q.norm(dim=-1, keepdim=True) ** 3], -1)


def orbit(t: float) -> Tensor:
    """By Kepler's equation, t = E - e sin E."""
    e, anomaly = ECCENTRICITY, t
    for _ in range(60):
        anomaly -= (anomaly - e * math.sin(anomaly) - t) / (1 - e * math.cos(anomaly))
    x, y, rate = math.cos(anomaly), math.sin(anomaly), 1 / (1 - e * math.cos(anomaly))
    wide = math.sqrt(1 - e**2)
    return torch.tensor([x - e, wide * y, -y * rate, wide * x * rate], dtype=DOUBLE)


def driven(t: Tensor, y: Tensor) -> Tensor:
    """Made so that q = sin 2t and p = exp(-t) solve it; both halves change with t, and neither is linear."""
    q, p = y.chunk(2, -1)
    v = 2 * torch.cos(2 * t) + torch.sin(p) - torch.sin(torch.exp(-t))
    a = -torch.exp(-t) - q**3 + torch.sin(2 * t) ** 3
    return torch.cat([v, a], -1)


def driven_exact(t: float) -> Tensor:
    return torch.tensor([math.sin(2 * t), math.exp(-t)], dtype=DOUBLE)


KEPLER = Reference("autonomous", kepler, orbit)
DRIVEN = Reference("time-dependent", driven, driven_exact)
CASES = [(name, problem) for name in SEPARABLE for problem in (KEPLER, DRIVEN)]


@pytest.mark.parametrize("span", [(0.2, 1.7), (1.7, 0.2)], ids=["forwards", "backwards"])
@pytest.mark.parametrize(("name", "problem"), CASES, ids=str)
def test_observed_order_of_separable_methods(name: str, problem: Reference, span: tuple[float, float]) -> None:
    order = solver_class(name).order
    counts, errors = COUNTS[order], []
    for count in counts:
        y1 = solve(problem.f, problem.exact(span[0]), span, solver=name, step_size=1.5 / count).y1
        errors.append(float((y1 - problem.exact(span[1])).abs().max()))
    assert slope([1 / count for count in counts], errors) == pytest.approx(order, abs=0.35)


@pytest.mark.parametrize(("name", "problem"), CASES, ids=str)
def test_outputs_inside_their_steps(name: str, problem: Reference) -> None:
    counts, errors = (16, 32, 64), []
    for count in counts:
        h = 1.5 / count
        inside = [0.2 + (k + theta) * h for k in range(count) for theta in (0.3, 0.8)]
        ys = solve(problem.f, problem.exact(0.2), [0.2, *inside, 1.7], solver=name, step_size=h).ys[1:-1]
        errors.append(float((ys - torch.stack([problem.exact(t) for t in inside])).abs().max()))
    assert slope([1 / count for count in counts], errors) > min(solver_class(name).order, 4) - 0.3


def energy(ys: Tensor) -> Tensor:
    q, p = ys.chunk(2, -1)
    return (0.5 * p.square() - torch.cos(q)).sum(-1)


def pendulum(t: Tensor, y: Tensor) -> Tensor:
    q, p = y.chunk(2, -1)
    return torch.cat([p, -torch.sin(q)], -1)


def drift(name: str) -> float:
    """How much worse the energy's error becomes from the first quarter of a long run to the last."""
    times = torch.linspace(0, 200, 801, dtype=DOUBLE)
    ys = solve(pendulum, torch.tensor([2.0, 0.0], dtype=DOUBLE), times, solver=name, step_size=0.25).ys
    gap = (energy(ys) - energy(ys[0])).abs()
    return float(gap[600:].max() / gap[:200].max())


def test_the_energy_drifts_with_rk4() -> None:
    assert drift("rk4") > 3


@pytest.mark.parametrize("name", SEPARABLE)
def test_the_energy_does_not_drift(name: str) -> None:
    assert drift(name) < 1.02


@pytest.mark.parametrize(("name", "problem"), CASES, ids=str)
def test_steps_back_undo_steps(name: str, problem: Reference) -> None:
    y0 = problem.exact(0.2)
    there = solve(problem.f, y0, [0.2, 1.7], solver=name, step_size=0.1).y1
    back = solve(problem.f, there, [1.7, 0.2], solver=name, step_size=0.1).y1
    torch.testing.assert_close(back, y0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SEPARABLE)
def test_steps_are_symplectic(name: str) -> None:
    """JᵀΩJ = Ω for the Jacobian J of three steps, of which those at the ends may be of another kind."""

    def steps(y: Tensor) -> Tensor:
        return solve(kepler, y, [0.0, 0.9], solver=name, step_size=0.3).y1

    jacobian = torch.autograd.functional.jacobian(steps, orbit(0.4))
    one, zero = torch.eye(2, dtype=DOUBLE), torch.zeros(2, 2, dtype=DOUBLE)
    omega = torch.cat([torch.cat([zero, one], 1), torch.cat([-one, zero], 1)])
    torch.testing.assert_close(jacobian.T @ omega @ jacobian, omega, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "substeps", "at_ends"),
    [("leapfrog", 1, 1), ("yoshida4", 3, 5), ("yoshida6", 7, 9), ("suzuki4", 5, 5), ("kahan_li6", 9, 9)],
)
def test_what_separable_steps_cost(name: str, substeps: int, at_ends: int) -> None:
    """Two calls a substep, the first slope, and two to see that f is separable; the first and last steps may differ."""
    f = Counted(pendulum)
    stats = solve(f, torch.ones(2), [0.0, 1.0], solver=name, step_size=0.1).stats
    assert stats.nfe == f.calls == 8 * 2 * substeps + 2 * 2 * at_ends + 3
    assert 0 <= min(f.times) <= max(f.times) <= 1


@pytest.mark.parametrize(("name", "inner"), INNER.items())
def test_where_substeps_would_leave_the_span_another_composition_takes_over(name: str, inner: str) -> None:
    """A span of one step has no room beyond it; the second of three steps has."""
    y0 = driven_exact(0.2)
    one, other = (solve(driven, y0, [0.2, 0.5], solver=each, step_size=0.3).y1 for each in (name, inner))
    assert torch.equal(one, other)
    three, others = (solve(driven, y0, [0.2, 0.5, 0.8, 1.1], solver=each, step_size=0.3).ys for each in (name, inner))
    assert torch.equal(three[1], others[1])
    assert not torch.equal(three[2], others[2])


@pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.0)], ids=["forwards", "backwards"])
@pytest.mark.parametrize("name", INNER)
def test_substeps_do_not_cross_a_discontinuity(name: str, span: tuple[float, float]) -> None:
    """On either side of the jump of f its antiderivative, a polynomial of degree three, is found exactly."""

    def pushed(t: Tensor, y: Tensor) -> Tensor:
        push = torch.where(t < 0.5, t**2, 3.0 - t**2)
        return torch.stack([torch.zeros_like(t), push])

    y0 = torch.zeros(2, dtype=DOUBLE)
    y1 = solve(pushed, y0, span, solver=name, step_size=0.125, jump_times=[0.5]).y1
    area = 0.5**3 / 3 + 1.5 - (1 - 0.5**3) / 3
    assert y1[1].item() == pytest.approx(math.copysign(area, span[1] - span[0]), rel=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128], ids=str)
def test_pairs_are_what_packed_tensors_are(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    q, p = torch.randn(2, 5, 3, generator=generator, dtype=dtype)

    def pair(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return y[1] * (1 + t), -torch.sin(y[0])

    def packed(t: Tensor, y: Tensor) -> Tensor:
        return torch.cat(pair(t, y.chunk(2, -1)), -1)

    options = {"solver": "leapfrog", "step_size": 0.1}
    nested = solve(pair, (q, p), [0.0, 0.45, 1.0], **options).ys
    whole = solve(packed, torch.cat([q, p], -1), [0.0, 0.45, 1.0], **options).ys
    assert torch.equal(torch.cat(nested, -1), whole)
    assert whole.dtype == dtype
    single = solve(pair, (q[0, 0], p[0, 0]), [0.0, 0.45, 1.0], **options).ys
    torch.testing.assert_close(single[0], nested[0][:, 0, 0])


def wired(t: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    q, p = y.chunk(2, -1)
    return torch.cat([torch.tanh(p @ weight), -(q**3) @ weight.T], -1)


@pytest.mark.parametrize("gradient", ["direct", "checkpointed"])
@pytest.mark.parametrize("name", ["leapfrog", "yoshida4"])
def test_gradcheck_of_separable_methods(name: str, gradient: str) -> None:
    def outputs(y0: Tensor, weight: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        solution = solve(wired, y0, times, args=(weight,), solver=name, gradient=gradient, step_size=0.26)
        return solution.ys, solution.y1

    generator = torch.Generator().manual_seed(0)
    y0, weight = (torch.randn(2, k, generator=generator, dtype=DOUBLE).requires_grad_() for k in (4, 2))
    times = torch.tensor([0.0, 0.35, 1.0], dtype=DOUBLE, requires_grad=True)
    assert gradcheck(outputs, [y0, weight, times])


@pytest.mark.parametrize("name", SEPARABLE)
def test_both_exact_gradients_of_separable_methods_agree(name: str) -> None:
    y0 = orbit(0.0).requires_grad_()
    times = torch.tensor([0.0, 0.37, 0.9], dtype=DOUBLE, requires_grad=True)
    grads = []
    for gradient in ("direct", "checkpointed"):
        solution = solve(kepler, y0, times, solver=name, gradient=gradient, step_size=0.1)
        grads.append(torch.autograd.grad(solution.ys.square().sum() + solution.y1.sum(), [y0, times]))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", SEPARABLE)
def test_separable_methods_without_gradients(name: str, mode: Any) -> None:
    expected = solve(kepler, orbit(0.0), [0.0, 1.0], solver=name, step_size=0.1).y1
    with mode():
        assert torch.equal(solve(kepler, orbit(0.0), [0.0, 1.0], solver=name, step_size=0.1).y1, expected)


@pytest.mark.parametrize(
    ("f", "y0", "words"),
    [
        (lambda t, y: -y, torch.ones(3), "pair .* equal shape.*can be halved"),
        (lambda t, y: -y, torch.tensor(1.0), "no axis at all"),
        (lambda t, y: -y, torch.ones(4), "separable systems.*dq/dt changes with q"),
        (lambda t, y: (y[1], -y[0] - 0.1 * y[1]), (torch.ones(2), torch.ones(2)), "or dp/dt with p.*'dopri5'"),
        (lambda t, y: (y[1].sum()[None] * y[0], 0 * y[1]), (torch.ones(1), torch.ones(3)), "separable systems"),
    ],
    ids=["odd", "scalar", "decay", "friction", "unequal"],
)
@pytest.mark.parametrize("name", ["leapfrog", "yoshida4"])
def test_what_separable_methods_are_not_for(f: Callable[..., Any], y0: Any, words: str, name: str) -> None:
    with pytest.raises(InputError, match=words):
        solve(f, y0, [0.0, 1.0], solver=name, step_size=0.1)


def test_separable_methods_need_fixed_steps_and_a_way_back_of_another_kind() -> None:
    with pytest.raises(OptionError, match="'leapfrog' has no error estimate"):
        solve(pendulum, torch.ones(2), [0.0, 1.0], solver="leapfrog")
    with pytest.raises(OptionError, match=r"'leapfrog' is for separable systems.*solver='dopri5'"):
        solve(pendulum, torch.ones(2), [0.0, 1.0], solver="leapfrog", step_size=0.1, gradient="adjoint")


@pytest.mark.parametrize("fractions", [(0.5, 0.6), (0.2, 0.8), (1.0, 1.0)], ids=str)
def test_fractions_that_make_no_method(fractions: tuple[float, ...]) -> None:
    with pytest.raises(TableauError, match="expected a palindrome that sums to 1"):
        type("Wrong", (Composition,), {"name": "wrong", "order": 2, "fractions": fractions})


@pytest.mark.parametrize("inner", [None, "leapfrog", "yoshida4"])
def test_fractions_that_leave_the_step_need_another_composition(inner: str | None) -> None:
    yoshida = solver_class("yoshida4")
    own = {"name": "wrong", "order": 4, "fractions": yoshida.fractions, "inner": inner and solver_class(inner)}
    with pytest.raises(TableauError, match=r"substeps reach from -0.351 to 1.35 steps.*add `inner = ...`"):
        type("Wrong", (Composition,), own)


def test_leapfrog_is_what_is_in_the_books() -> None:
    q, p, h = 0.3, 0.7, 0.2
    half = p - h / 2 * math.sin(q)
    ahead = q + h * half
    y1 = solve(pendulum, torch.tensor([q, p], dtype=DOUBLE), [0.0, h], solver=Leapfrog(), step_size=h).y1
    assert y1.tolist() == pytest.approx([ahead, half - h / 2 * math.sin(ahead)], rel=1e-15)
