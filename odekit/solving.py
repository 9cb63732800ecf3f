"""The front door: one call that poses, solves and reports an initial value problem."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from odekit.core.control import resolve_control
from odekit.core.problem import pose
from odekit.core.protocols import GradientMethod, ODESolver, Outcome, StepControl, TraceEstimator
from odekit.core.solution import Solution
from odekit.core.state import Layout
from odekit.core.tolerance import Norm
from odekit.errors import InputError, OptionError, SolveError, nearest
from odekit.registry import catalog


def solve(
    f: Callable[..., Any],
    y0: Any,
    t: Any,
    *,
    solver: str | ODESolver = "dopri5",
    gradient: str | GradientMethod = "direct",
    rtol: Any = None,
    atol: Any = None,
    step_size: float | None = None,
    control: str | StepControl | None = None,
    norm: str | Norm = "rms",
    args: tuple[Any, ...] = (),
    max_steps: int = 100_000,
    throw: bool = True,
    **unknown: Any,
) -> Solution:
    """Solve dy/dt = f(t, y, *args), y(t[0]) = y0, and give y at every time in ``t``.

    Differentiable with respect to ``y0``, the parameters of f, tensors in ``args``, and ``t``.

    Args:
        f: the vector field, a callable or ``nn.Module``. Gets ``t`` as a 0-d tensor in the real dtype of the state, and
            ``y`` as you gave ``y0``; returns the same nesting, shapes, dtype and device. Never called outside the span.
        y0: a floating-point or complex tensor of any shape, or a nested tuple, list or dict of such.
        t: output times ``[T]``, increasing or decreasing; the first one is t0. Steps are not cut at them.
        solver: a registered name (``odekit list solvers``) or an instance with settings of its own.
        gradient: a registered name (``odekit list gradients``) or an instance.
        rtol, atol: allowed local error, ``atol + rtol |y|``: a number, or tensors nested as ``y0``. By default 1e-7 and
            1e-9 for float64 states, 1e-5 and 1e-6 for float32. Fixed steps use them for Newton iterations only.
        step_size: fixed steps, no longer than this. Needed by solvers without an error estimate.
        control: ``"i"`` (the default), ``"pi"``, ``"pid"``, or a StepControl such as
            ``PIDControl(first_step=0.1)``.
        norm: of the scaled error: ``"rms"``, ``"max"``, or a callable from the packed state to a 0-d tensor.
        args: passed on to f, and differentiated.
        max_steps: attempted steps allowed for the whole solve.
        throw: raise if the solve fails; otherwise return what was reached, with its status.

    Returns:
        A :class:`~odekit.core.solution.Solution` with ``ts [T]``, ``ys [T, ...]``, ``status`` and ``stats``.

    Raises:
        InputError: an argument is wrong, or f returns something that is not dy/dt.
        NameNotFound: no solver or gradient method has this name.
        GradientError: a tensor that needs a gradient would miss it.
        SolveError: the solve failed (NaN, step underflow, too many steps, Newton divergence) and ``throw`` is set.
    """
    if unknown:
        name = next(iter(unknown))
        raise OptionError(f"solve() has no option {name!r}. {nearest(name, option_names())}")
    solver = solver_named(solver)
    control = resolve_control(control, step_size, solver)
    gradient = gradient_named(gradient).prepared(solver_named)
    problem = pose(f, y0, t, args=args, rtol=rtol, atol=atol, norm=norm, max_steps=max_steps, adaptive=control.adaptive)
    outcome = gradient.solve(problem, solver, control)
    solution = _solution(outcome, problem.ts, problem.layout)
    if throw and not solution.status.ok:
        raise SolveError(_complaint(outcome, solver, problem.y0), solution.status, solution)
    return solution


def option_names() -> list[str]:
    """The keyword options of :func:`solve`."""
    kinds = inspect.signature(solve).parameters.values()
    return [p.name for p in kinds if p.kind is inspect.Parameter.KEYWORD_ONLY]


def solver_named(solver: str | ODESolver) -> ODESolver:
    """The solver that a name, a class or an instance stands for."""
    return _resolve("solver", solver, ODESolver)


def gradient_named(gradient: str | GradientMethod) -> GradientMethod:
    """The gradient method that a name, a class or an instance stands for."""
    return _resolve("gradient", gradient, GradientMethod)


def trace_named(trace: str | TraceEstimator) -> TraceEstimator:
    """The trace estimator that a name, a class or an instance stands for."""
    return _resolve("trace", trace, TraceEstimator)


def _resolve(kind: str, wanted: Any, base: type) -> Any:
    found = catalog().get(kind, wanted) if isinstance(wanted, str) else wanted
    if isinstance(found, type) and issubclass(found, base):
        found = found()
    if not isinstance(found, base):
        raise InputError(
            f"{kind}={wanted!r:.80}: expected a registered name (see `odekit list {kind}s`) "
            f"or an instance of {base.__name__}"
        )
    return found


def _solution(outcome: Outcome, ts: Tensor, layout: Layout) -> Solution:
    return Solution(
        ts=ts,
        ys=layout.unpack(outcome.ys),
        status=outcome.status,
        stats=outcome.stats,
        t1=outcome.t1,
        y1=layout.unpack(outcome.y1),
    )


def _complaint(outcome: Outcome, solver: ODESolver, y0: Tensor) -> str:
    stats = outcome.stats
    cause = "" if bool(y0.isfinite().all()) else " y0 itself holds NaN or infinite values."
    return (
        f"solver {solver.name!r} stopped at t = {outcome.t1:.6g}: {outcome.status}.{cause} "
        f"(next step size {outcome.step_size:.3g}, {stats.nfe} evaluations of f, {stats.accepted} steps accepted, "
        f"{stats.rejected} rejected.) {outcome.status.hint} throw=False returns what was reached."
    )
