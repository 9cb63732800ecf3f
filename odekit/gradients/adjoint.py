"""The continuous adjoint: gradients from a second ODE, solved backwards."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from odekit.core.callbacks import Callbacks, resolve_callbacks
from odekit.core.control import resolve_control
from odekit.core.course import Course
from odekit.core.first_only import first_only
from odekit.core.integrate import around, integrate
from odekit.core.outputs import Slot
from odekit.core.problem import Problem
from odekit.core.protocols import GradientMethod, ODESolver, Outcome, StepControl
from odekit.core.rows.answer import RowOutcome
from odekit.core.rows.problem import RowProblem
from odekit.core.sections import Stops
from odekit.core.solution import Stats
from odekit.core.times import Clock
from odekit.core.tolerance import NORMS, Norm, Tolerance, checked, rms
from odekit.errors import AdjointDriftWarning, GradientError, InputError, OptionError, SolveError, nearest
from odekit.gradients import rows_adjoint
from odekit.gradients.augmented import Augmented, Parts
from odekit.gradients.captured import Dependencies

_SECOND = "gradient='adjoint' has no second derivatives; use gradient='direct'"
_NO_SLOTS: tuple[Slot, ...] = ()
_DRIFT_STEPS = 1e3
"""Local errors that may have piled up in a backward solve of y before its gradient is called into question."""


def _mixed(parts: Parts) -> Norm:
    return lambda z: torch.stack([rms(part) for part in parts.split(z) if part.numel()]).amax()


def _seminorm(parts: Parts) -> Norm:
    return lambda z: torch.stack([rms(part) for part in parts.split(z)[:2] if part.numel()]).amax()


_PARTED: dict[str, Callable[[Parts], Norm]] = {"mixed": _mixed, "seminorm": _seminorm}


def _known_norm(instance: Any, attribute: Any, value: Any) -> None:
    if not callable(value) and value not in _PARTED and value not in NORMS:
        raise InputError(f"adjoint norm {value!r} is not known. {nearest(str(value), [*_PARTED, *NORMS])}")


@attrs.frozen
class Adjoint(GradientMethod):
    """Solves [f, -aᵀ∂f/∂y, -aᵀ∂f/∂θ] backwards from [y(t1), ∂L/∂y(t1), 0].

    Memory does not grow with the number of steps. The gradient is that of the ODE, not of the computed numbers: its
    error is of the size of the tolerances, and on systems that contract strongly the backward solve of y is unstable
    (an :class:`~odekit.errors.AdjointDriftWarning` says when it lost the trajectory). At every output time y is set to
    the stored forward value. Chen et al. 2018, *Neural ordinary differential equations*, Algorithm 1.

    Attributes:
        solver: for the backward solve, a name or an instance; the forward one by default.
        rtol, atol: of the backward solve; the forward ones by default.
        norm: of the backward error: ``"mixed"`` (the largest RMS among y, a and the parameters' integral),
            ``"seminorm"`` (without the integral, which no derivative depends on: Kidger, Chen & Lyons 2021, *Hey,
            that's not an ODE*), ``"rms"``, ``"max"``, or a callable on the packed backward state.
        step_size, control: of the backward solve; the forward control by default.
        callback: hooks of the backward solve, told its packed states: a function or a Callbacks.
    """

    solver: ODESolver | str | None = None
    rtol: float | None = None
    atol: float | None = None
    norm: str | Norm = attrs.field(default="mixed", validator=_known_norm)
    step_size: float | None = None
    control: StepControl | str | None = None
    callback: Callbacks | Callable[[float, Any], Any] | None = None

    name = "adjoint"
    exact = False
    memory = "output times × state + one evaluation's activations"

    def prepared(self, solver_named: Callable[[str], ODESolver]) -> Adjoint:
        return attrs.evolve(self, solver=solver_named(self.solver)) if isinstance(self.solver, str) else self

    def solve(self, problem: Problem, solver: ODESolver, control: StepControl) -> Outcome:
        if not torch.is_grad_enabled():
            return _forward(problem, solver, control, None)
        back = _Backward(self, problem, solver, control)
        if back.dependencies.needed:
            back.problem = problem.sparing()
        inputs = (first_only(x, _SECOND) for x in (problem.y0, problem.ts, *back.dependencies.tensors))
        ys, y1 = _Solve.apply(back, *inputs)
        return attrs.evolve(back.outcomes.pop(), ys=ys, y1=y1)

    def solve_rows(self, problem: RowProblem, solver: ODESolver, control: StepControl) -> RowOutcome:
        return rows_adjoint.solve(self, problem, solver, control)


def _forward(problem: Problem, solver: ODESolver, control: StepControl, f0: Tensor | None) -> Outcome:
    with torch.no_grad():
        return integrate(
            problem.field,
            problem.y0,
            Clock(problem.times),
            solver,
            control,
            problem.tolerance,
            problem.max_steps,
            f0=f0,
            course=problem.course,
        )


class _Backward:
    """The settings of the backward solve, checked before the forward one begins, and what it will need."""

    def __init__(self, method: Adjoint, problem: Problem, solver: ODESolver, control: StepControl) -> None:
        self.problem = problem
        self.forward_solver, self.forward_control = solver, control
        self.solver = method.solver if isinstance(method.solver, ODESolver) else solver
        if self.solver.structure != "general":
            raise OptionError(
                f"solver {self.solver.name!r} is for {self.solver.structure} systems, and the system that "
                "gradient='adjoint' solves backwards is none; use gradient='checkpointed', or a general solver for the "
                "way back: gradient=Adjoint(solver='dopri5')"
            )
        own = method.control is not None or method.step_size is not None
        self.control = resolve_control(method.control if own else control, method.step_size, self.solver)
        self.dependencies = Dependencies(problem)
        if not problem.y0.is_complex() and any(tensor.is_complex() for tensor in self.dependencies.tensors):
            raise GradientError(
                "f has complex parameters but a real state, which gradient='adjoint' cannot integrate together; "
                "use gradient='checkpointed'"
            )
        self.parts = Parts(problem.y0, self.dependencies.tensors)
        rtol, atol = self._tolerances(method)
        norm = method.norm
        if isinstance(norm, str):
            norm = _PARTED[norm](self.parts) if norm in _PARTED else NORMS[norm]
        self.tolerance = checked(self.parts.spread(rtol), self.parts.spread(atol), problem.y0.dtype, norm)
        self.drift_allowed = self._drift_allowed(rtol, atol)
        self.outcomes: list[Outcome] = []
        self.stats, self.reached, self.slots = Stats(), problem.times[0], _NO_SLOTS
        self.callbacks = resolve_callbacks(method.callback)

    def _tolerances(self, method: Adjoint) -> tuple[float | Tensor, float | Tensor]:
        """The relative and absolute tolerance for y and its adjoint: the method's own ones, or the forward ones."""
        problem, forward = self.problem, self.problem.tolerance
        rtol, atol = forward.rtol, forward.atol
        if method.rtol is not None:
            rtol = problem.layout.pack_tolerance(method.rtol, "the adjoint's rtol", problem.y0)
        if method.atol is not None:
            atol = problem.layout.pack_tolerance(method.atol, "the adjoint's atol", problem.y0)
        return rtol, atol

    def _drift_allowed(self, rtol: float | Tensor, atol: float | Tensor) -> Tolerance:
        if not (self.control.adaptive and self.forward_control.adaptive):
            return Tolerance(rtol=0.02, atol=1e-3)
        forward = self.problem.tolerance
        return Tolerance(_DRIFT_STEPS * _larger(rtol, forward.rtol), _DRIFT_STEPS * _larger(atol, forward.atol))


def _larger(a: float | Tensor, b: float | Tensor) -> float | Tensor:
    if isinstance(a, Tensor):
        return a.clamp_min(b)
    return b.clamp_min(a) if isinstance(b, Tensor) else max(a, b)


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, back: _Backward, y0: Tensor, ts: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        outcome = _forward(back.problem, back.forward_solver, back.forward_control, back.dependencies.f0)
        ctx.back = back
        y1 = outcome.y1.clone()
        ctx.save_for_backward(outcome.ys, y1, ts, *tensors)
        back.outcomes.append(outcome)
        back.stats, back.reached, back.slots = outcome.stats, outcome.t1, outcome.slots
        return outcome.ys, y1

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ys: Tensor, grad_y1: Tensor) -> tuple[Any, ...]:
        back: _Backward = ctx.back
        ys, y1, *_ = ctx.saved_tensors  # raises if one was changed in place since
        grad_y0, grad_ts, grads = _solve_backwards(back, ys, y1, grad_ys, grad_y1, ctx.needs_input_grad[2])
        return None, grad_y0, grad_ts, *grads


def _solve_backwards(
    back: _Backward, ys: Tensor, y1: Tensor, grad_ys: Tensor, grad_y1: Tensor, time_gradient: bool
) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
    problem, parts, stats = back.problem, back.parts, back.stats
    inputs = back.dependencies.inputs()
    field = back.dependencies.field(problem, inputs)
    augmented = Augmented(
        field, inputs, parts, functools.partial(back.dependencies.check_none_missed, method="adjoint")
    )
    slope, stops = {}, problem.course.stops
    times, states, index = _stations(back.slots, back.reached, ys, y1)
    last = len(times) - 1
    grad_ts = torch.zeros_like(problem.ts) if time_gradient else None

    def move(at: int, cotangent: Tensor, slot: Slot | None, sign: float = 1.0) -> None:
        """The state at a station moves by f as the output's time moves, and with it as the caller's times move."""
        if grad_ts is None:
            return
        if at not in slope:
            with torch.no_grad():
                beside = times[at - 1] if at else times[min(1, last)]
                slope[at] = around(field, stops.section(times[at], beside))(times[at], states[at])
        moved = sign * (cotangent.conj() * slope[at]).real.sum().to(grad_ts)
        if slot is not None and slot.index is not None:
            grad_ts[slot.index] += moved
            return
        share = problem.clock.share(times[at])  # a time in between, moved by both ends of the span
        grad_ts[0] += (1 - share) * moved
        if share:
            grad_ts[-1] += share * moved

    def arriving(at: int) -> Tensor:
        """The loss's own derivative with respect to the state at a station, but for the initial state itself."""
        total = grad_y1 if at == last else torch.zeros_like(grad_y1)
        for k in index[at][at == 0 :]:
            total = total + grad_ys[k]
            move(at, grad_ys[k], back.slots[k])
        return total

    adjoint = arriving(last)
    move(last, grad_y1, back.slots[index[last][-1]] if index[last] else None)
    integrals = parts.no_integrals()
    control, budget = back.control, problem.max_steps
    for at in range(last, 0, -1):
        if not bool(adjoint.any()):  # no later state matters to the loss
            adjoint = arriving(at - 1)
            continue
        z1 = parts.join(states[at], adjoint, integrals)
        outcome = _section(back, augmented, z1, (times[at], times[at - 1]), control, budget)
        budget -= outcome.stats.steps
        control = back.control.resumed(outcome.step_size)
        stats.steps_backward += outcome.stats.steps
        y, adjoint, integrals = parts.split(outcome.y1)
        _warn_of_drift(back.drift_allowed, y.reshape(y1.shape), states[at - 1], times[at], times[at - 1])
        adjoint = adjoint.reshape(y1.shape) + arriving(at - 1)
    move(0, adjoint, back.slots[0], -1.0)
    stats.nfe_backward += field.nfe
    grads = zip(parts.gradients(integrals), augmented.used, strict=True)
    return adjoint + grad_ys[0], grad_ts, [grad if used else None for grad, used in grads]


def _stations(
    slots: tuple[Slot, ...], reached: float, ys: Tensor, y1: Tensor
) -> tuple[list[float], list[Tensor], list[list[int]]]:
    """The distinct times at which the loss may touch the trajectory, the states there, and the outputs' numbers."""
    stations, states, index = [slots[0].t], [ys[0]], [[0]]
    for k in range(1, len(slots)):
        if slots[k].t == stations[-1]:
            index[-1].append(k)
        else:
            stations.append(slots[k].t)
            states.append(ys[k])
            index.append([k])
    if stations[-1] != reached:
        stations.append(reached)
        states.append(y1)
        index.append([])
    return stations, states, index


def _section(
    back: _Backward, augmented: Augmented, z: Tensor, span: tuple[float, float], control: StepControl, budget: int
) -> Outcome:
    with torch.no_grad():
        outcome = integrate(
            augmented, z, Clock(span), back.solver, control, back.tolerance, max(budget, 1),
            course=Course(stops=Stops.of((), back.problem.course.stops.jumps, *span), callbacks=back.callbacks),
        )  # fmt: skip
    if not outcome.status.ok:
        raise SolveError(
            f"the backward solve of gradient='adjoint' stopped at t = {outcome.t1:g} on its way from {span[0]:g} to "
            f"{span[1]:g}: {outcome.status}. {outcome.status.hint} "
            "gradient='checkpointed' has no backward solve to fail.",
            outcome.status,
        )
    return outcome


def _warn_of_drift(tolerance: Tolerance, found: Tensor, stored: Tensor, t1: float, t0: float) -> None:
    drift = float(tolerance.ratio(found - stored, stored, found))
    if not drift <= 1:
        warnings.warn(
            f"solving y backwards from t = {t1:g} to {t0:g} missed the forward trajectory by {drift:.2g} times what "
            "can be put down to the tolerance or step size, so this adjoint gradient is not to be trusted; use "
            "gradient='checkpointed', tighten rtol=/atol=, or add output times in between (the state is reset there)",
            AdjointDriftWarning,
            stacklevel=2,
        )
