"""The continuous adjoint of a solve by rows: every row's adjoint is solved backwards on steps of its own."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import attrs
import numpy as np
import torch
from torch import Tensor

from odekit.core.control import resolve_control
from odekit.core.protocols import ODESolver, StepControl
from odekit.core.rows.answer import RowOutcome
from odekit.core.rows.clock import RowClock
from odekit.core.rows.course import RowCourse
from odekit.core.rows.field import RowDynamics, RowField
from odekit.core.rows.loop import RowsAccepted, integrate_rows
from odekit.core.rows.one_by_one import solve_one_by_one
from odekit.core.rows.problem import RowProblem
from odekit.core.rows.selection import Selection, pick
from odekit.core.rows.tolerance import RowTolerance, norm_by_row
from odekit.core.times import RowTimes, Time, on_host
from odekit.core.tolerance import NORMS, Norm, checked
from odekit.errors import AdjointDriftWarning, SolveError
from odekit.gradients.captured import Dependencies
from odekit.gradients.forwards import retraced_rows, unrecorded_rows
from odekit.gradients.products import added
from odekit.gradients.quadrature import gauss_legendre
from odekit.gradients.tape import Tape, record

if TYPE_CHECKING:
    from odekit.gradients.adjoint import Adjoint

_DRIFT_STEPS = 1e3
"""Local errors that may have piled up in a backward solve of y before its gradient is called into question."""


def solve(method: Adjoint, problem: RowProblem, solver: ODESolver, control: StepControl) -> RowOutcome:
    """Solve without a graph; ``backward()`` solves [f, -aᵀ∂f/∂y] backwards by rows.

    The parameters' integral of aᵀ∂f/∂θ is taken by Gauss quadrature on the dense output of the accepted backward steps,
    so that no row carries a state of the parameters' size. Kidger, Chen & Lyons 2021, *Hey, that's not an ODE*, have
    the argument that the integral needs no error control of its own.

    Where one of the solvers is implicit or cannot step by rows, where that integral is to be a part of the state, and
    where the backward solve has hooks, the rows are solved one after the other.
    """
    backward = method.solver if isinstance(method.solver, ODESolver) else solver
    alone = backward.implicit or not backward.rowwise
    if alone or method.quadrature is False or method.callback is not None:
        return solve_one_by_one(problem, method, solver, control)
    if not torch.is_grad_enabled():
        return unrecorded_rows(problem, solver, control)
    own = method.control is not None or method.step_size is not None
    back_control = resolve_control(method.control if own else control, method.step_size, backward)
    tape = _Tape(method, problem, solver, control, backward, back_control)
    ys, y1 = record(tape)
    return attrs.evolve(tape.outcomes[0], ys=ys, y1=y1)


class _Tape(Tape):
    """The settings of the backward solve, checked before the forward one begins."""

    method = "adjoint"
    needs_outputs = True

    def __init__(
        self,
        method: Adjoint,
        problem: RowProblem,
        forward_solver: ODESolver,
        forward_control: StepControl,
        solver: ODESolver,
        control: StepControl,
    ) -> None:
        self.problem, self.y0, self.ts = problem, problem.y0, problem.ts
        self.forward_solver, self.forward_control = forward_solver, forward_control
        self.solver, self.control = solver, control
        self.dependencies = Dependencies(problem.start)
        if self.dependencies.needed:
            self.problem = problem.sparing()
        forward, layout, y0 = problem.tolerance, problem.layout, problem.y0
        rtol, atol = forward.rtol, forward.atol
        if method.rtol is not None:
            rtol = layout.pack_tolerance(method.rtol, "the adjoint's rtol", y0)
        if method.atol is not None:
            atol = layout.pack_tolerance(method.atol, "the adjoint's atol", y0)
        both = checked(_twice(rtol), _twice(atol), y0.dtype, _two_parts)
        norm: Norm = _two_parts
        if callable(method.norm) or method.norm in NORMS:
            norm = norm_by_row(method.norm if callable(method.norm) else NORMS[method.norm])
        self.tolerance = RowTolerance(both.rtol, both.atol, norm, _two_parts_of_one)
        if control.adaptive and forward_control.adaptive:
            self.drift = RowTolerance(_DRIFT_STEPS * rtol, _DRIFT_STEPS * atol, norm_by_row(forward.single))
        else:
            self.drift = RowTolerance(0.02, 1e-3, norm_by_row(forward.single))
        self.outcomes: list[RowOutcome] = []

    def solve(self) -> tuple[Tensor, Tensor]:
        outcome = unrecorded_rows(self.problem, self.forward_solver, self.forward_control, self.dependencies.f0)
        self.outcomes.append(attrs.evolve(outcome, ys=outcome.ys[:0], y1=outcome.y1[:0]))
        return outcome.ys, outcome.y1

    def pull(
        self, outputs: Sequence[Tensor], grad_ys: Tensor, grad_y1: Tensor, time_gradient: bool
    ) -> list[Tensor | None]:
        ys, y1 = outputs
        return _solve_backwards(self, ys, y1, grad_ys, grad_y1, time_gradient)

    def retrace(self, y0: Tensor, ts: Tensor, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        return retraced_rows(
            self.problem, self.dependencies, self.forward_solver, self.forward_control,
            self.outcomes[0].stats.costs[0], y0, ts, inputs,
        )  # fmt: skip


def _twice(tolerance: float | Tensor) -> float | Tensor:
    """A tolerance for y as one for [y, a]."""
    if not isinstance(tolerance, Tensor):
        return tolerance
    flat = tolerance.reshape(len(tolerance), -1)
    return torch.cat([flat, flat], dim=1)


def _two_parts(z: Tensor) -> Tensor:
    """For every row the larger one of the root mean squares of y and a."""
    rms = norm_by_row(NORMS["rms"])
    return torch.maximum(*(rms(part) for part in z.chunk(2, dim=1)))


def _two_parts_of_one(z: Tensor) -> Tensor:
    return _two_parts(z)[0]


def _solve_backwards(
    back: _Tape, ys: Tensor, y1: Tensor, grad_ys: Tensor, grad_y1: Tensor, time_gradient: bool
) -> list[Tensor | None]:
    problem, outcome = back.problem, back.outcomes[0]
    times, reached, device = _padded(outcome.times, outcome.reached), outcome.reached, ys.device
    every_step = problem.course.every_step
    count, length = times.shape
    inputs = back.dependencies.inputs()
    augmented = _Augmented(back, back.dependencies.field(problem.start, inputs), inputs, y1)
    everyone = np.arange(count)
    numbers = np.arange(length)
    came = torch.from_numpy(numbers < reached[:, None]).to(device).reshape(count, length, *(1,) * (y1.ndim - 1))
    ys = torch.where(came, ys, problem.y0.detach()[:, None])
    at_output = outcome.t1 == times[everyone, reached - 1]
    last = torch.from_numpy((numbers == reached[:, None] - 1) & at_output[:, None]).to(device).reshape(came.shape)
    zero = torch.zeros((), dtype=ys.dtype, device=device)
    arriving = torch.where(came, grad_ys, zero) + torch.where(last, grad_y1[:, None], zero)
    grad_ts = torch.zeros(problem.ts.shape, dtype=problem.ts.dtype, device=problem.ts.device) if time_gradient else None

    def moved(t: np.ndarray, y: Tensor, cotangent: Tensor) -> Tensor:
        """How the loss changes with the times of these states, which move by f: one number a row."""
        with torch.no_grad():
            slope = augmented.dynamics(RowTimes(t), y)
        return (cotangent.conj() * slope).real.reshape(count, -1).sum(1).to(problem.ts)

    def move_ends(t: np.ndarray, change: Tensor) -> None:
        """Both ends of the span move a time in between."""
        assert grad_ts is not None
        of_first, of_last = (torch.tensor(share.tolist()).to(change) for share in problem.clock.shares(t, everyone))
        grad_ts[:, -1] += of_last * change
        grad_ts[:, 0] += of_first * change

    def move_output(index: np.ndarray, t: np.ndarray, change: Tensor) -> None:
        """An output's time is one of the caller's, or moves with the ends of the span."""
        assert grad_ts is not None
        number = torch.from_numpy(index).to(change.device)
        none = torch.zeros_like(change)
        grad_ts.scatter_add_(1, number.clamp_min(0)[:, None], torch.where(number >= 0, change, none)[:, None])
        move_ends(t, torch.where(number >= 0, none, change))

    adjoint, sizes = torch.zeros_like(y1), np.zeros(count)
    for k in range(length - 1, 0, -1):
        inside = (reached == k) & ~at_output
        start = np.where(inside, outcome.t1, times[:, k])
        state, adjoint = ys[:, k], adjoint + arriving[:, k]
        if grad_ts is not None:
            move_output(outcome.index[:, k], times[:, k], moved(times[:, k], ys[:, k], arriving[:, k]))
        if inside.any():
            here = torch.from_numpy(inside).to(device).reshape(-1, *(1,) * (y1.ndim - 1))
            state, ending = torch.where(here, y1, state), torch.where(here, grad_y1, zero)
            adjoint = adjoint + ending
            if grad_ts is not None:
                move_ends(start, moved(start, state, ending))
        wanted = adjoint.reshape(count, -1).any(1).cpu().numpy() & ((k < reached) | inside)
        span = np.stack([np.where(wanted, start, times[:, k - 1]), times[:, k - 1]], axis=1)
        if (span[:, 0] == span[:, 1]).all():
            continue
        y, adjoint, sizes = _section(back, augmented, state, adjoint, span, sizes)
        _warn_of_drift(back.drift, y, ys[:, k - 1], state, span)
    if grad_ts is not None:
        grad_ts[:, 0] -= moved(times[:, 0], ys[:, 0], adjoint)
        still = problem.times[:, 0] == problem.times[:, -1]
        if every_step and still.any():  # y1 of a row at rest is no other output
            by_end = moved(times[:, 0], ys[:, 0], grad_y1) * torch.from_numpy(still).to(device)
            grad_ts[:, -1] += by_end
            grad_ts[:, 0] -= by_end
    cost = outcome.stats.costs[0]
    cost.nfe_backward += augmented.nfe
    return [adjoint + arriving[:, 0], grad_ts, *augmented.gradients()]


def _padded(times: np.ndarray, reached: np.ndarray) -> np.ndarray:
    """The times of the outputs, with the last one that was reached in place of those that were not."""
    last = times[np.arange(len(times)), reached - 1]
    return np.where(np.arange(times.shape[1]) < reached[:, None], times, last[:, None])


def _section(
    back: _Tape, augmented: _Augmented, y: Tensor, adjoint: Tensor, span: np.ndarray, sizes: np.ndarray
) -> tuple[Tensor, Tensor, np.ndarray]:
    """y and the adjoint at the other end of each row's span ``[B, 2]``, and the step sizes to go on with."""
    count = len(y)
    z = torch.cat([y.reshape(count, -1), adjoint.reshape(count, -1)], dim=1)
    moving = span[:, 0] != span[:, 1]
    with torch.no_grad():
        outcome = integrate_rows(
            augmented, z, RowClock(span, None, z), back.solver, back.control, back.tolerance, back.problem.max_steps,
            sizes=sizes if (sizes[moving] > 0).all() else None, on_accept=augmented.add_integrals,
            course=RowCourse(stops=back.problem.course.stops),
        )  # fmt: skip
    back.outcomes[0].stats.costs[0].steps_backward += int(outcome.stats.steps.max())
    failed = [row for row in outcome.statuses.failed if moving[row]]
    if failed:
        row = failed[0]
        raise SolveError(
            f"the backward solve of gradient='adjoint' stopped in row {row} at t = {outcome.t1[row]:g} on its way from "
            f"{span[row, 0]:g} to {span[row, 1]:g}: {outcome.statuses[row]}. {outcome.statuses.hint} "
            "gradient='checkpointed' has no backward solve to fail.",
            outcome.statuses,
        )
    y, adjoint = (part.reshape(y.shape) for part in outcome.y1.chunk(2, dim=1))
    return y, adjoint, np.where(moving, outcome.sizes, sizes)


def _warn_of_drift(tolerance: RowTolerance, found: Tensor, stored: Tensor, start: Tensor, span: np.ndarray) -> None:
    drift = on_host(tolerance.ratio(found - stored, stored, found))
    lost = (span[:, 0] != span[:, 1]) & ~(drift <= 1)
    if lost.any():
        row = int(np.flatnonzero(lost)[0])
        warnings.warn(
            f"solving y backwards from t = {span[row, 0]:g} to {span[row, 1]:g} missed the forward trajectory of row "
            f"{row} by {drift[row]:.2g} times what can be put down to the tolerance or step size "
            f"({int(lost.sum())} rows in all), so this adjoint gradient is not to be trusted; use "
            "gradient='checkpointed', tighten rtol=/atol=, or add output times in between (the state is reset there)",
            AdjointDriftWarning,
            stacklevel=2,
        )


class _Augmented(RowDynamics):
    """d/dt [y, a] = [f, -aᵀ∂f/∂y] by rows, on ``[B, 2n]``, and the integrals for the parameters beside it."""

    def __init__(self, back: _Tape, dynamics: RowDynamics, inputs: list[Tensor], like: Tensor) -> None:
        self.dynamics = dynamics
        self.inputs = inputs
        self.dependencies = back.dependencies
        self.shape = like.shape[1:]
        self.everyone = dynamics.everyone
        self.sums: list[Tensor | None] = [None] * len(inputs)

    @property
    def nfe(self) -> int:
        return self.dynamics.nfe

    @property
    def jacobians(self) -> int:
        return self.dynamics.jacobians

    def on(self, rows: Selection) -> _AugmentedField:
        with torch.enable_grad():
            return _AugmentedField(self, self.dynamics.on(rows))

    def add_integrals(self, taken: RowsAccepted) -> None:
        """Add what the accepted steps of an iteration contribute to -∫ aᵀ∂f/∂θ dt."""
        if not self.inputs:
            return
        step = taken.solver.densify(taken.field, taken.step)
        positions = Selection(np.flatnonzero(taken.accepted), step.y1.device)
        of_y = cast(_AugmentedField, taken.field).of_y
        t0, t1 = taken.t0[taken.accepted], taken.t1[taken.accepted]
        with torch.enable_grad():
            field = of_y.on(positions)
        for node, weight in gauss_legendre(taken.solver.order):
            z = pick(taken.solver.interpolate(step, node), positions)
            y, adjoint = self.split(z)
            with torch.enable_grad():
                dy = field(RowTimes(t0 + node * (t1 - t0)), y)
            if not dy.requires_grad:
                return
            cotangent = RowTimes((t0 - t1) * weight).tensor(adjoint) * adjoint
            grads = torch.autograd.grad(dy, self.inputs, cotangent, allow_unused=True, retain_graph=True)
            self.sums = [added(total, grad) for total, grad in zip(self.sums, grads, strict=True)]

    def gradients(self) -> list[Tensor | None]:
        """The integrals, None for a tensor that f was not seen to depend on."""
        return self.sums

    def split(self, z: Tensor) -> list[Tensor]:
        """y and a in the shape of the state."""
        return [part.reshape(len(z), *self.shape) for part in z.chunk(2, dim=1)]


class _AugmentedField(RowField):
    """The augmented dynamics of some of the rows."""

    def __init__(self, augmented: _Augmented, of_y: RowField) -> None:
        self.augmented = augmented
        self.rows = of_y.rows
        self.bounds = of_y.bounds
        self.of_y = of_y

    @property
    def nfe(self) -> int:
        return self.of_y.nfe

    def inlined(self) -> None:
        """Nothing: steps of it are not compiled."""

    def on(self, positions: Selection) -> _AugmentedField:
        with torch.enable_grad():
            return _AugmentedField(self.augmented, self.of_y.on(positions))

    def confined(self, low: np.ndarray, high: np.ndarray) -> _AugmentedField:
        with torch.enable_grad():
            return _AugmentedField(self.augmented, self.of_y.confined(low, high))

    def times(self, values: Sequence[Time]) -> Sequence[Tensor]:
        return [t.reshape(len(self.rows), 1) for t in self.of_y.times(values)]

    def __call__(self, t: Time, y: Tensor) -> Tensor:
        state, adjoint = self.augmented.split(y)
        if isinstance(t, Tensor):
            t = t.reshape(len(state), *(1,) * (state.ndim - 1))
        with torch.enable_grad():
            state = state.detach().requires_grad_()
            dy = self.of_y(t, state)
        wrt = [state, *self.augmented.inputs]
        self.augmented.dependencies.check_none_missed([dy], wrt, "adjoint")
        pulled: Tensor | None = None
        if dy.requires_grad:
            (pulled,) = torch.autograd.grad(dy, [state], adjoint.neg(), allow_unused=True, retain_graph=True)
        parts = [dy.detach(), torch.zeros_like(dy) if pulled is None else pulled]
        return torch.cat([part.reshape(len(y), -1) for part in parts], dim=1)
