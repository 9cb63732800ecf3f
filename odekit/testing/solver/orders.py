"""The orders that a solver declares, measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from odekit.core.protocols import ODESolver, Step
from odekit.testing.checks import Checks, Measured, NotApplicable
from odekit.testing.measure import apart, digits, finest_slope
from odekit.testing.probe import Watched
from odekit.testing.problems import DOUBLE, SPAN, Problem
from odekit.testing.solver.subject import SolverSubject, grid

CHECKS = Checks()

_COUNTS = {False: (3, 6, 12, 24, 48, 96, 192, 384), True: (3, 6, 9, 12, 18, 24, 36, 48, 72, 96, 144, 192)}
"""Numbers of steps over the span, multiples of three; True for methods of high order, which reach rounding soon."""

_CALLS = 800
"""Of f; a measurement that has made so many is as fine as it gets."""


def _price(solver: ODESolver) -> int:
    """As how many calls one counts. Those of implicit methods are dear, and low orders show early."""
    return 3 if solver.implicit and solver.order < 5 else 1


_FLOOR = 3e-12
"""Errors below are taken for rounding, and for what Newton iterations leave."""

_SIZES = (0.8, 0.5, 0.32, 0.2, 0.13, 0.08, 0.05, 0.032, 0.02, 0.013, 0.008)
"""Sizes of single steps, which begin at ``_START``."""

_START = 0.6


def _near(order: int) -> float:
    """How far a measured order may be from the true one: the higher, the fewer steps are between rough and rounding."""
    return 0.2 if order < 5 else 0.5 if order < 7 else 0.75


def _errors(subject: SolverSubject, problem: Problem, span: tuple[float, float]) -> Iterator[tuple[int, float]]:
    """Numbers of steps, ever more, and the error at a third, two thirds and the end of the span."""
    times = [span[0] + (span[1] - span[0]) * k / 3 for k in range(4)]
    exact, calls = grid(problem, times), 0
    for count in _COUNTS[subject.solver.order > 4]:
        solution = subject.solve(problem, times, step_size=abs(span[1] - span[0]) / count, throw=False, dense=False)
        calls += solution.stats.nfe * _price(subject.solver)
        if solution.status.ok:  # steps may be too long at first
            error = float((solution.ys - exact).square().mean().sqrt())
            yield count, error
            if error < _FLOOR:
                return
        if calls > _CALLS:
            return


def _order(subject: SolverSubject, problem: Problem, span: tuple[float, float]) -> Measured:
    subject.needs_steps()
    pairs = list(_errors(subject, problem, span))
    counts, errors = [count for count, _ in pairs], [error for _, error in pairs]
    return _verdict([1 / count for count in counts], errors, subject.solver.order, "order", "steps")


def _verdict(
    sizes: Sequence[float], errors: Sequence[float], declared: int, number: str = "", unit: str = ""
) -> Measured:
    found = finest_slope(sizes, errors, _FLOOR, 2 if declared < 5 else 3)
    shown = ", ".join(f"{error:.1e}" for error in errors[-4:])
    if math.isnan(found):
        exact = bool(errors) and max(errors) <= _FLOOR
        return Measured(exact, "no error at all" if exact else "no convergence", f"{declared}", f"errors {shown}")
    detail = f"errors {shown} with {', '.join(f'{1 / s:.0f}' for s in sizes[-4:])} {unit}" if unit else ""
    numbers = {number: found} if number else {}
    return Measured(
        abs(found - declared) <= _near(declared), f"{found:.2f}", f"{declared} ± {_near(declared)}", detail, numbers
    )


@CHECKS.add
def order(subject: SolverSubject) -> Measured:
    """The order on an autonomous problem is the declared one."""
    return _order(subject, subject.autonomous, SPAN)


@CHECKS.add
def order_in_time(subject: SolverSubject) -> Measured:
    """The order is the same where f depends on time, which needs the right stage times."""
    return _order(subject, subject.timed, SPAN)


@CHECKS.add
def order_backwards(subject: SolverSubject) -> Measured:
    """The order is the same backwards in time."""
    return _order(subject, subject.timed, SPAN[::-1])


@CHECKS.add
def error_order(subject: SolverSubject) -> Measured:
    """The error estimate of a step of size h is O(h^(q+1)), with q the lower one of order and error order."""
    subject.needs_steps()
    declared = subject.solver.error_order
    if declared is None:
        raise NotApplicable("no error estimate is declared")
    wanted = min(subject.solver.order, declared) + 1
    sizes, estimates = [], []
    for size, step in _single_steps(subject, subject.timed):
        if step.error is None:
            return Measured(False, "no estimate", f"one of order {declared}", "error_order is declared, error is None")
        sizes.append(size)
        estimates.append(float(step.error.abs().max()))
    return _verdict(sizes, estimates, wanted)


@CHECKS.add
def dense_ends(subject: SolverSubject) -> Measured:
    """The dense output meets the state at both ends of a step."""
    drive = subject.drive(subject.timed, [0.3, 0.5, 0.62])
    worst = 0.0
    for step in drive.steps:
        step = drive.solver.densify(drive.field, step)
        ends = ((0.0, step.y0), (1.0, step.y1))
        for theta, state in ends:
            for at in (theta, torch.tensor(theta, dtype=DOUBLE)):
                worst = max(worst, apart(drive.solver.interpolate(step, at), state))
    return Measured(worst < 1e-10, f"{worst:.1e} apart", "rounding")


@CHECKS.add
def dense_order(subject: SolverSubject) -> Measured:
    """Inside a step of size h the dense output is off by O(h^(q+1)), and its slope by O(h^q), q the dense order."""
    subject.needs_steps()
    solver, problem = subject.solver, subject.timed
    wanted = min(solver.order, solver.dense_order) + 1
    sizes, values, slopes = [], [], []
    for size, value, slope in _inside(subject, problem):
        sizes.append(size)
        values.append(value)
        slopes.append(slope)
    by_value, by_slope = (finest_slope(sizes, errors, _FLOOR) for errors in (values, slopes))
    near = _near(wanted)
    holds = not (by_value < wanted - near or by_slope < wanted - 1 - near)
    return Measured(
        holds and not math.isnan(by_value),
        f"{by_value:.2f} of states, {by_slope:.2f} of slopes",
        f"{wanted} and {wanted - 1}, less at most {near}",
    )


@CHECKS.add
def dense_outputs(subject: SolverSubject) -> Measured:
    """Outputs inside steps are as good as the step ends, up to one order above that of the dense output."""
    solver, problem = subject.solver, subject.timed
    subject.needs_steps()
    if solver.memoryless:
        raise NotApplicable("one step is like another, so that the dense order says it all")
    wanted = min(solver.order, solver.dense_order + 1)
    sizes, errors, calls = [], [], 0
    for count in _COUNTS[solver.order > 4][2:]:
        size = (SPAN[1] - SPAN[0]) / count
        inside = [SPAN[0] + (k + theta) * size for k in range(count // 4, count) for theta in (0.23, 0.5, 0.81)]
        times = [SPAN[0], *inside, SPAN[1]]
        solution = subject.solve(problem, times, step_size=size, throw=False, dense=False)
        calls += solution.stats.nfe * _price(subject.solver)
        if solution.status.ok:
            sizes.append(size)
            errors.append(float((solution.ys - grid(problem, times)).abs().max()))
        if calls > _CALLS or (errors and errors[-1] < _FLOOR):
            break
    found, near = finest_slope(sizes, errors, _FLOOR), _near(wanted)
    return Measured(found >= wanted - near, f"{found:.2f}", f"at least {wanted} - {near}")


@CHECKS.add
def accuracy(subject: SolverSubject) -> Measured:
    """Adaptive steps keep the error in proportion to the tolerance; with fixed ones the digits are just told."""
    problem = subject.timed
    if not subject.adaptive:
        solution = subject.solve(problem, SPAN, step_size=(SPAN[1] - SPAN[0]) / 96)
        error = apart(solution.y1, problem.exact(SPAN[1]))
        return Measured(True, f"{digits(error):.1f} digits with 96 steps", "any", numbers={"digits": digits(error)})
    found = []
    for rtol in (1e-2, 1e-4):
        solution = subject.solve(problem, SPAN, rtol=rtol, atol=rtol, max_steps=5_000)
        error = apart(solution.y1, problem.exact(SPAN[1]))
        found.append((error, rtol * max(300, 10 * solution.stats.accepted)))
    error = found[-1][0]
    return Measured(
        all(error <= allowed for error, allowed in found),
        f"{digits(error):.1f} digits at 1e-4",
        "at most 300 tolerances, or ten for each step",
        f"errors {found[0][0]:.1e} at 1e-2, {found[1][0]:.1e} at 1e-4",
        {"digits": digits(error)},
    )


def _single_steps(subject: SolverSubject, problem: Problem) -> Iterator[tuple[float, Step]]:
    """Single steps from the exact solution, ever shorter."""
    solver = subject.told(problem.linear).prepared(subject.hand_tolerance)
    for size, _, step in _first_steps(solver, problem):
        yield size, step


def _first_steps(solver: ODESolver, problem: Problem) -> Iterator[tuple[float, Watched, Step]]:
    for size in _SIZES:
        y0 = problem.exact(_START)
        f = Watched(problem.f, y0, (_START, _START + 2 * size))  # a method may look beyond its step
        step = solver.step(f, _START, _START + size, y0, solver.init(f, _START, y0))
        if step.status.ok:
            yield size, f, step


def _inside(subject: SolverSubject, problem: Problem) -> Iterator[tuple[float, float, float]]:
    """Step sizes, and how far states and slopes inside such a step are off."""
    solver = subject.told(problem.linear).prepared(subject.hand_tolerance)
    thetas = (0.12, 0.35, 0.5, 0.77, 0.9)
    for size, f, step in _first_steps(solver, problem):
        step = solver.densify(f, step)
        times = [_START + theta * size for theta in thetas]
        exact = grid(problem, times)
        slopes = torch.stack([problem.f(torch.tensor(t, dtype=DOUBLE), y) for t, y in zip(times, exact, strict=True)])
        values = torch.stack([solver.interpolate(step, theta) for theta in thetas])
        derived = torch.stack([solver.derivative(step, theta) for theta in thetas])
        yield size, _largest(values - exact), _largest(derived - slopes)


def _largest(x: Tensor) -> float:
    return float(x.detach().abs().max())
