"""Step control: the formulas, their limits, and that the error of an answer follows the tolerance."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest
import torch
from problems import AUTONOMOUS, CAUTIOUS, DOUBLE, SOLVERS, TIMED, Counted, Reference, slope, solver_class

from odekit import FixedStep, PIDControl, Status, solve
from odekit.core.control import CONTROLS, PredictiveControl
from odekit.core.field import Field
from odekit.core.protocols import ODESolver, Proposal, Step, Verdict
from odekit.core.reversible import ReversibleSolver
from odekit.core.state import TensorLayout
from odekit.core.tolerance import Tolerance, largest
from odekit.errors import InputError, OptionError

TOLERANCE = Tolerance(rtol=0.0, atol=1.0)


class Third(ODESolver):
    """Stands for a method with an embedded one of order two."""

    name = "third"
    order = 3
    error_order = 2

    def step(self, f: Any, t0: Any, t1: Any, y0: Any, carry: Any) -> Step:
        raise NotImplementedError


K = Third.error_order + 1


def judged(control: PIDControl, errors: list[float], size: float = 0.1) -> list[Verdict]:
    """The verdicts on steps of the same size with these scaled errors, from t = 0 on."""
    y = torch.zeros(2, dtype=DOUBLE)
    proposal = attrs.evolve(control, first_step=size).start(None, 0.0, 1.0, y, Third(), TOLERANCE)
    verdicts, carry = [], proposal.carry
    for error in errors:
        step = Step(0.0, size, y, y, error=torch.full_like(y, error))
        verdicts.append(control.judge(step, 0.0, size, Third(), TOLERANCE, carry))
        carry = verdicts[-1].carry
    return verdicts


def factors(control: PIDControl, errors: list[float], size: float = 0.1) -> list[float]:
    """The change of the step size that each verdict asks for."""
    ends = [(v.t_next, size if v.accept else 0.0) for v in judged(control, errors, size)]
    return [(end - start) / size for end, start in ends if end is not None]


def test_integral_control() -> None:
    errors = [0.5, 0.1, 0.9]
    assert factors(PIDControl(), errors) == pytest.approx([0.9 * e ** (-1 / K) for e in errors])


def test_proportional_integral_control() -> None:
    a, b, c = errors = [0.5, 0.3, 0.8]
    p, i = 0.3, 0.4
    expected = [
        0.9 * a ** (-(p + i) / K),
        0.9 * b ** (-(p + i) / K) * a ** (p / K),
        0.9 * c ** (-(p + i) / K) * b ** (p / K),
    ]
    assert factors(PIDControl(pcoeff=p, icoeff=i), errors) == pytest.approx(expected)


def test_proportional_integral_derivative_control() -> None:
    a, b, c = errors = [0.5, 0.3, 0.8]
    p, i, d = 0.2, 0.4, 0.1
    expected = [
        0.9 * a ** (-(p + i + d) / K),
        0.9 * b ** (-(p + i + d) / K) * a ** ((p + 2 * d) / K),
        0.9 * c ** (-(p + i + d) / K) * b ** ((p + 2 * d) / K) * a ** (-d / K),
    ]
    assert factors(PIDControl(pcoeff=p, icoeff=i, dcoeff=d), errors) == pytest.approx(expected)


def test_named_controls() -> None:
    assert {name: (c.pcoeff, c.icoeff, c.dcoeff) for name, c in CONTROLS.items() if type(c) is PIDControl} == {
        "i": (0.0, 1.0, 0.0),
        "pi": (0.2, 0.65, 0.0),
        "pid": (0.01, 0.47, 0.1),
    }
    assert isinstance(CONTROLS["predictive"], PredictiveControl)


def test_a_step_passes_up_to_an_error_of_one() -> None:
    accepted = [judged(PIDControl(), [error])[0].accept for error in (0.0, 0.99, 1.0, 1.0001, 50.0)]
    assert accepted == [True, True, True, False, False]


def test_changes_keep_to_their_limits() -> None:
    control = PIDControl(factor_min=0.3, factor_max=4.0)
    assert factors(control, [0.0]) == pytest.approx([4.0])
    assert factors(control, [1e9]) == pytest.approx([0.3])
    assert factors(PIDControl(pcoeff=2.0, icoeff=2.0), [1.0, 1e-4, 1.0]) == pytest.approx([0.9, 10.0, 0.2])


def test_after_a_rejection_the_step_does_not_grow_at_once() -> None:
    rejected, held, free = factors(PIDControl(), [8.0, 1e-6, 1e-6])
    assert rejected == pytest.approx(0.9 * 8 ** (-1 / K))
    assert held == pytest.approx(1.0)
    assert free == pytest.approx(10.0)


def test_a_rejected_step_is_not_remembered_as_an_error() -> None:
    control = PIDControl(pcoeff=0.3, icoeff=0.4)
    assert factors(control, [0.5, 30.0, 0.9])[2] == pytest.approx(0.9 * 0.9 ** (-0.7 / K) * 0.5 ** (0.3 / K))


@pytest.mark.parametrize("error", [math.nan, math.inf])
def test_a_step_that_is_not_finite_is_tried_much_smaller(error: float) -> None:
    (verdict,) = judged(PIDControl(), [error])
    assert not verdict.accept
    assert verdict.status is Status.NON_FINITE
    assert verdict.t_next == pytest.approx(0.01)


def test_a_step_that_failed_in_the_solver_is_tried_smaller() -> None:
    y = torch.zeros(2, dtype=DOUBLE)
    step = Step(0.0, 0.1, y, y, status=Status.NEWTON_DIVERGED)
    start = PIDControl(first_step=0.1).start(None, 0.0, 1.0, y, Third(), TOLERANCE)
    verdict = PIDControl().judge(step, 0.0, 0.1, Third(), TOLERANCE, start.carry)
    assert (verdict.accept, verdict.status) == (False, Status.NEWTON_DIVERGED)
    assert verdict.t_next == pytest.approx(0.025)


def test_dt_max_bounds_and_dt_min_ends() -> None:
    assert factors(PIDControl(dt_max=0.15), [1e-6]) == pytest.approx([1.5])
    assert factors(PIDControl(dt_min=0.08), [0.999], size=0.08) == pytest.approx([1.0])
    (verdict,) = judged(PIDControl(dt_min=0.08), [9.0])
    assert (verdict.accept, verdict.t_next, verdict.status) == (False, None, Status.STEP_UNDERFLOW)
    (verdict,) = judged(PIDControl(dt_min=0.08), [math.nan])
    assert (verdict.t_next, verdict.status) == (None, Status.NON_FINITE)


def test_dt_max_holds_in_a_solve() -> None:
    f = Counted(AUTONOMOUS.f)
    solution = solve(f, AUTONOMOUS.exact(0.0), [0.0, 2.0], rtol=1e-2, atol=1e-2, control=PIDControl(dt_max=0.1))
    assert solution.stats.accepted >= 2.0 / (0.1 * 1.01)


def test_dt_min_ends_a_solve_that_would_need_less() -> None:
    control = PIDControl(dt_min=1e-2, first_step=0.5)
    solution = solve(
        lambda t, y: y**2, torch.ones(1, dtype=DOUBLE), [0.0, 2.0], control=control, rtol=1e-8, throw=False
    )
    assert solution.status is Status.STEP_UNDERFLOW


@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_the_first_step_that_is_asked_for_is_taken(direction: float) -> None:
    y0 = AUTONOMOUS.exact(0.0)
    start = PIDControl(first_step=0.125).start(None, 0.5, 0.5 + direction, y0, Third(), TOLERANCE)
    assert start.t_next == 0.5 + 0.125 * direction
    start = PIDControl(first_step=0.125, dt_max=0.1).start(None, 0.5, 0.5 + direction, y0, Third(), TOLERANCE)
    assert start.t_next == pytest.approx(0.5 + 0.1 * direction)


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e6])
@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_the_estimated_first_step_scales_with_the_problem(scale: float, direction: float) -> None:
    """A sixth of a digit of change is allowed to the first step of y' = scale y, and two calls of f."""
    y0 = torch.ones(3, dtype=DOUBLE)
    f = Counted(lambda t, y: scale * y)
    span = 5 / scale * direction
    field = Field(f, (), TensorLayout(y0.shape), y0, (0.0, span))
    start: Proposal = PIDControl().start(field, 0.0, span, y0, Third(), Tolerance(1e-6, 1e-6))
    assert f.calls == 2
    assert 1e-4 < start.t_next * scale * direction < 1.0
    torch.testing.assert_close(start.f0, scale * y0)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_where_nothing_happens_the_first_step_is_sane(value: float) -> None:
    y0 = torch.full((2,), value, dtype=DOUBLE)
    solution = solve(lambda t, y: torch.zeros_like(y), y0, [0.0, 100.0])
    assert torch.equal(solution.y1, y0)
    assert solution.stats.steps < 20


def test_a_huge_but_finite_slope_is_no_reason_to_stop() -> None:
    solution = solve(lambda t, y: torch.full_like(y, 1e30), torch.zeros(1), [0.0, 1.0])
    torch.testing.assert_close(solution.y1, torch.tensor([1e30]))


@pytest.mark.parametrize(
    ("span", "size", "count"),
    [((0.0, 1.0), 0.1, 10), ((0.0, 1.0), 0.3, 4), ((1.0, 0.0), 0.25, 4), ((0.0, 1.0), 7.0, 1), ((0.0, 0.7), 0.1, 7)],
)
def test_fixed_steps_are_equal_and_no_longer_than_asked(span: tuple[float, float], size: float, count: int) -> None:
    f = Counted(lambda t, y: -y)
    solution = solve(f, torch.ones(1, dtype=DOUBLE), span, solver="euler", step_size=size)
    assert (solution.stats.steps, solution.stats.accepted, solution.stats.nfe) == (count, count, count)
    t0, t1 = span
    assert f.times == pytest.approx([t0 + (t1 - t0) * k / count for k in range(count)], abs=1e-15)


@pytest.mark.parametrize("name", SOLVERS)
def test_any_tableau_runs_with_fixed_steps_and_output_times_do_not_matter(name: str) -> None:
    y0 = AUTONOMOUS.exact(0.0)
    few = solve(AUTONOMOUS.f, y0, [0.0, 1.0], solver=name, step_size=0.1)
    many = solve(AUTONOMOUS.f, y0, torch.linspace(0, 1, 24, dtype=DOUBLE), solver=name, step_size=0.1)
    assert few.stats.steps == many.stats.steps == 10
    assert torch.equal(few.y1, many.y1)
    assert torch.equal(many.ys[-1], many.y1)


@pytest.mark.parametrize("size", [5e-324, 1e-30])
def test_absurdly_small_fixed_steps_end_in_a_status(size: float) -> None:
    solution = solve(
        lambda t, y: -y, torch.ones(1), [1.0, 2.0], solver="euler", step_size=size, max_steps=50, throw=False
    )
    assert solution.status in (Status.STEP_UNDERFLOW, Status.MAX_STEPS)


@pytest.mark.parametrize("problem", [AUTONOMOUS, TIMED], ids=str)
@pytest.mark.parametrize("control", ["i", "pi", "pid"])
@pytest.mark.parametrize("name", CAUTIOUS)
def test_three_decades_of_tolerance_give_two_and_a_half_digits(name: str, control: str, problem: Reference) -> None:
    """The error is proportional to tol, or, where the better of two methods is only the estimate, to tol^(p/(p+1))."""
    solver = solver_class(name)
    decades = {1: (2, 3, 4), 2: (3, 4, 5), 3: (3, 4, 5, 6), 4: (4, 5, 6, 7, 8)}.get(solver.order, (5, 6, 7, 8, 9, 10))
    assert solver.error_order is not None
    power = min(1.0, solver.order / (solver.error_order + 1))
    better = max(1.0, solver.order / (solver.error_order + 1))  # the step may gain more than its estimate
    tolerances = [10.0**-decade for decade in decades]
    lasting = not issubclass(solver, ReversibleSolver)  # those are weakly unstable where the problem contracts
    times = [0.2, 2.0, 4.0, 6.0] if lasting else [0.2, 0.6, 1.0, 1.4]
    exact = torch.stack([problem.exact(t) for t in times])
    errors = []
    for tol in tolerances:
        ys = solve(problem.f, exact[0], times, solver=name, control=control, rtol=tol, atol=tol).ys
        errors.append(float((ys - exact).abs().max()))
        assert (
            (0.05 if solver.order < 7 else 0.01) * tol**better < errors[-1] < (40 if name == "bdf" else 10) * tol**power
        )
    digits = 2.4 if name == "sdirk2" else 2.5  # whose error is well below loose tolerances
    assert slope(tolerances, errors) > digits / 3 * power


def test_tolerances_of_components_and_the_norm_count() -> None:
    y0, y1 = torch.tensor([1.0, -2.0], dtype=DOUBLE), torch.tensor([4.0, 1.0], dtype=DOUBLE)
    error = torch.tensor([0.3, 0.1], dtype=DOUBLE)
    atol = torch.tensor([0.1, 0.2], dtype=DOUBLE)
    scaled = torch.tensor([0.3 / 0.5, 0.1 / 0.4], dtype=DOUBLE)
    assert float(Tolerance(0.1, atol).ratio(error, y0, y1)) == pytest.approx(float(scaled.square().mean().sqrt()))
    assert float(Tolerance(0.1, atol, largest).ratio(error, y0, y1)) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FixedStep(0.0), "step_size=0.0: expected a positive, finite number"),
        (lambda: FixedStep(math.nan), "step_size=nan"),
        (lambda: PIDControl(first_step=-1.0), "first_step=-1.0"),
        (lambda: PIDControl(safety=0.0), "safety=0.0"),
        (lambda: PIDControl(safety=1.5), "safety=1.5.*expected safety <= 1"),
        (lambda: PIDControl(factor_min=2.0), "factor_min=2.0.*factor_min < 1 < factor_max"),
        (lambda: PIDControl(dt_min=-1.0), "dt_min=-1.0"),
        (lambda: PIDControl(dt_min=1.0, dt_max=0.5), "expected 0 <= dt_min <= dt_max"),
        (lambda: PIDControl(icoeff=math.nan), "expected numbers"),
    ],
)
def test_settings_that_cannot_work_are_refused(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


def test_a_solver_without_estimate_cannot_be_controlled() -> None:
    with pytest.raises(OptionError, match="no error estimate, so its steps cannot adapt; give step_size"):
        solve(lambda t, y: -y, torch.ones(1), [0.0, 1.0], solver="euler", control="pi")
