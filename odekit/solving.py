"""The front door: one call that poses, solves and reports an initial value problem."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from odekit.core import lanes
from odekit.core.autocast import suspended
from odekit.core.callbacks import Callbacks, resolve_callbacks
from odekit.core.chunk import chunked
from odekit.core.compiled import CompiledStep
from odekit.core.compiled_solve import CompiledSolve
from odekit.core.control import resolve_control
from odekit.core.dense import Kept, Recorder
from odekit.core.events import Event, resolve_events
from odekit.core.legs import travel
from odekit.core.problem import pose
from odekit.core.protocols import GradientMethod, ODESolver, Outcome, StepControl, TraceEstimator
from odekit.core.report import report, resolve_save
from odekit.core.rows.front import solve_rows
from odekit.core.rows.problem import one_row
from odekit.core.rows.stops import RowStops
from odekit.core.sections import numbers
from odekit.core.solution import Solution
from odekit.core.tolerance import Norm
from odekit.errors import InputError, OptionError, SolveError, nearest
from odekit.registry import catalog

_BATCHES = ("shared", "rows")

_DENSE_BYTES = 64 * 2**20
"""How much a solve keeps for dense output without being asked."""


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
    dt_min: float | None = None,
    dt_max: float | None = None,
    first_step: float | None = None,
    step_times: Iterable[float] = (),
    jump_times: Iterable[float] = (),
    events: Event | Iterable[Event] | None = None,
    save: str | Callable[..., Any] | None = None,
    dense: bool | None = None,
    callback: Callbacks | Callable[[float, Any], Any] | None = None,
    batch: str = "shared",
    max_steps: int = 100_000,
    compile: bool | str = False,
    throw: bool = True,
    **unknown: Any,
) -> Solution:
    """Solve dy/dt = f(t, y, *args), y(t[0]) = y0, and give y at every time in ``t``.

    Differentiable with respect to ``y0``, the parameters of f, tensors in ``args``, and ``t``.

    Args:
        f: the vector field, a callable or ``nn.Module``. Gets ``t`` as a 0-d tensor in the real dtype of the state, and
            ``y`` as you gave ``y0``; returns the same nesting, shapes, dtype and device. Never called outside the span.
        y0: a floating-point or complex tensor of any shape, or a nested tuple, list or dict of such.
        t: output times ``[T]``, increasing or decreasing; the first one is t0. Steps are not cut at them. The last one
            may be infinite if there is a terminal event.
        solver: a registered name (``odekit list solvers``) or an instance with settings of its own.
        gradient: a registered name (``odekit list gradients``) or an instance.
        rtol, atol: allowed local error, ``atol + rtol |y|``: a number, or tensors nested as ``y0``. By default 1e-7 and
            1e-9 for float64 states, 1e-5 and 1e-6 for float32. Fixed steps use them for Newton iterations only.
        step_size: fixed steps, no longer than this. Needed by solvers without an error estimate.
        control: ``"i"`` (the default), ``"pi"``, ``"pid"``, ``"predictive"``, or a StepControl such as
            ``PIDControl(safety=0.8)``.
        norm: of the scaled error: ``"rms"``, ``"max"``, or a callable from the packed state to a 0-d tensor.
        args: passed on to f, and differentiated.
        dt_min, dt_max, first_step: bounds on adaptive steps, and the size of the first one. A step that would have to
            be shorter than ``dt_min`` ends the solve.
        step_times: times at which a step must end. Those outside the span do not matter.
        jump_times: times at which f is discontinuous: a step ends there, f is asked for its limits from either side,
            and nothing that the solver remembers of f is carried across.
        events: an :class:`~odekit.core.events.Event` or several of them; a bare function ``g(t, y, *args)`` is an
            event that ends the solve where g crosses zero.
        save: ``"steps"`` gives the state at t0 and at the end of every accepted step, in place of the times in ``t``
            (of which only the ends then count). A function of the state, ``save(t, y)`` or ``save(y)``, is applied to
            every output, and ``ys`` holds what it returns. With ``batch="rows"``, ``"steps"`` gives ``ts [B, S]`` and
            ``ys [B, S, ...]``, padded with NaN to the row with the most steps; a function gets all rows at once, with
            a time ``t`` for all or, where rows have times of their own, ``[B]``.
        dense: whether to keep the steps for ``solution.interpolate``. By default they are kept as long as that takes
            less than 64 MiB, except where a gradient method that spares memory needs gradients, and not with
            ``compile="solve"``.
        callback: ``callback(t, y)`` is called after every accepted step; see
            :class:`~odekit.core.callbacks.Callbacks` for other moments, and for what it gets with ``batch="rows"``.
        batch: ``"shared"``: all rows of a batch take the same steps. ``"rows"``: every row of ``y0``, whose parts all
            have the rows as first axis, has its own time, step size and end, and ``t`` may be ``[B, T]``, with spans
            of any direction and repeated times for padding. See :mod:`odekit.core.rows`.
        max_steps: attempted steps allowed for the whole solve; with ``batch="rows"``, for each row.
        compile: ``True`` or ``"step"`` runs every step as one graph that ``torch.compile`` makes, which takes from some
            seconds to a minute the first time; see :class:`~odekit.core.compiled.CompiledStep`. ``"solve"`` puts the
            loop over the steps into the graph as well, fixed or adaptive ones, shared or by row, which is several times
            as fast where f is small; see :class:`~odekit.core.compiled_solve.CompiledSolve`. Where gradients flow
            through the steps, or events, callbacks or forced stops are to be looked after, it is ``"step"``, but for
            fixed steps, of which up to 16 are one graph.
        throw: raise if the solve fails; otherwise return what was reached, with its status.

    Returns:
        A :class:`~odekit.core.solution.Solution` with ``ts [T]``, ``ys [T, ...]``, ``status``, ``stats``, the
        ``events`` that happened, and ``interpolate``. With ``batch="rows"`` the status is a sequence of B, one a
        row, the counts of steps are ``[B]``, and ``ts`` and ``ys`` are as ``t`` was given: ``[T]`` and
        ``[T, B, ...]``, or ``[B, T]`` and ``[B, T, ...]``.

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
    limits = {"dt_min": dt_min, "dt_max": dt_max, "first_step": first_step}
    control = resolve_control(control, step_size, solver, limits)
    gradient = gradient_named(gradient).prepared(solver_named)
    if compile not in (False, True, "step", "solve"):
        raise InputError(f"compile={compile!r}: expected False, True, 'step' or 'solve'")
    compiled = bool(compile) and not gradient.dissects
    if batch not in _BATCHES:
        raise InputError(f"batch={batch!r} is not known. {nearest(str(batch), _BATCHES)}")
    every_step, saved = resolve_save(save)
    recorder = _recorder(False if dense is None and compile == "solve" else dense)
    step_times, jump_times = numbers(step_times, "step_times"), numbers(jump_times, "jump_times")
    problem = pose(
        f, y0, one_row(t) if batch == "rows" else t, args=args, rtol=rtol, atol=atol, norm=norm, max_steps=max_steps,
        adaptive=control.adaptive,
        events=resolve_events(events), step_times=step_times, jump_times=jump_times, every_step=every_step,
        callbacks=resolve_callbacks(callback), recorder=recorder,
    )  # fmt: skip
    if batch == "rows":
        if lanes.mapped():
            raise InputError(
                'batch="rows" inside torch.func.vmap: lanes cannot have rows; give the lanes a batch axis of their own '
                "and solve all of their rows at once, without vmap"
            )
        stops = RowStops.of(step_times, jump_times)
        solver = _compiling(solver, compile) if compiled else solver
        with suspended(problem.y0.device.type):
            return solve_rows(problem, t, gradient, solver, control, throw, stops, saved)
    length = 1
    if compiled and compile == "solve":
        problem, solver, control, length = chunked(problem, solver, control)
    solver = _compiling(solver, compile) if compiled else solver
    with suspended(problem.y0.device.type):
        journey = travel(problem, gradient, solver, control)
    solution = report(journey, problem, saved)
    journey.outcome.stats.steps *= length
    journey.outcome.stats.accepted *= length
    if throw and not solution.status.ok:
        raise SolveError(_complaint(journey.outcome, solver, problem.y0), solution.status, solution)
    return solution


def _compiling(solver: ODESolver, compile: bool | str) -> CompiledStep:
    return CompiledSolve(solver) if compile == "solve" else CompiledStep(solver)


def _recorder(dense: bool | None) -> Recorder[Kept] | None:
    if dense not in (None, True, False):
        raise InputError(f"dense={dense!r}: expected True, False, or None for as long as the steps are small")
    return None if dense is False else Recorder(None if dense else _DENSE_BYTES)


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


def _complaint(outcome: Outcome, solver: ODESolver, y0: Tensor) -> str:
    stats = outcome.stats
    cause = "" if lanes.everywhere(y0.isfinite().all()) else " y0 itself holds NaN or infinite values."
    return (
        f"solver {solver.name!r} stopped at t = {outcome.t1:.6g}: {outcome.status}.{cause} "
        f"(next step size {outcome.step_size:.3g}, {stats.nfe} evaluations of f, {stats.accepted} steps accepted, "
        f"{stats.rejected} rejected.) {outcome.status.hint} throw=False returns what was reached."
    )
