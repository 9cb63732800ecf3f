"""The bars that odekit's solvers are held to, by counts and digits, next to SciPy."""

from __future__ import annotations

import math

import pytest

from benchmarks.bars import Bar, cautious_solvers, nonstiff_bar, stiff_bar
from benchmarks.measure import Measured, Patience, adaptive_solvers, ours
from benchmarks.problems import DETEST, NONSTIFF, STIFF, Problem


@pytest.mark.bars
@pytest.mark.timeout(900)
@pytest.mark.parametrize("problem", STIFF.values(), ids=str)
def test_a_stiff_solver_gives_five_digits_for_little_more_than_radau(problem: Problem) -> None:
    bar = stiff_bar(problem)
    assert bar.passed, bar.line()


@pytest.mark.bars
@pytest.mark.timeout(900)
@pytest.mark.parametrize("problem", NONSTIFF.values(), ids=str)
def test_seven_digits_of_every_nonstiff_problem(problem: Problem) -> None:
    bar = nonstiff_bar(problem)
    assert bar.passed, bar.line()


@pytest.mark.slow
def test_careful_steps_give_the_seven_digits_that_default_ones_miss() -> None:
    problem = DETEST["D5"]
    assert ours(problem, "dopri8", 1e-8).digits < 7
    bar = nonstiff_bar(problem, ["dopri8"])
    assert (bar.passed, bar.solver) == (True, "dopri8, careful")
    assert bar.best.digits >= 7


@pytest.mark.slow
def test_solvers_that_cannot_do_it_do_not_pass() -> None:
    """Third order does not get to seven digits within the allowed calls of f."""
    bar = nonstiff_bar(DETEST["B5"], ["bosh3"], [])
    assert isinstance(bar, Bar)
    assert not bar.passed
    assert not nonstiff_bar(NONSTIFF["arenstorf"], ["dopri8"], []).passed
    assert not stiff_bar(STIFF["hires"], ["trapezoid"]).passed


@pytest.mark.slow
def test_cautious_solvers_take_part_where_no_explicit_one_passes() -> None:
    assert cautious_solvers() == ["gauss4", "gauss6"]
    assert nonstiff_bar(DETEST["B2"], ["vern7"], ["gauss6"]).solver.startswith("vern7")
    bar = nonstiff_bar(DETEST["B2"], [], ["gauss6"])
    assert (bar.passed, bar.solver) == (True, "gauss6")


def test_whoever_calls_f_too_often_or_for_too_long_is_counted_out() -> None:
    problem = DETEST["A3"]
    whole = ours(problem, "dopri5", 1e-6)
    assert whole.digits > 5
    assert ours(problem, "dopri5", 1e-6, Patience(whole.nfe)).digits == whole.digits
    half = ours(problem, "dopri5", 1e-6, Patience(whole.nfe // 2))
    assert (half.digits, half.nfe) == (-math.inf, whole.nfe // 2 + 1)
    hasty = ours(problem, "dopri5", 1e-6, Patience(seconds=0))
    assert (hasty.digits, hasty.nfe) == (-math.inf, 1)


def test_the_solvers_are_those_of_the_registry() -> None:
    assert {"dopri5", "tsit5"} <= set(adaptive_solvers(implicit=False))
    assert {"kvaerno3", "radau5"} <= set(adaptive_solvers(implicit=True))
    assert isinstance(ours(DETEST["A1"], "bosh3", 1e-3), Measured)
