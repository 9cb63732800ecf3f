"""Step control: fixed steps, and I, PI and PID control of the error per step."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from odekit.core import lanes
from odekit.core.protocols import (
    ODESolver,
    Proposal,
    RowProposal,
    RowVerdict,
    Step,
    StepControl,
    VectorField,
    Verdict,
)
from odekit.core.rows import control as by_rows
from odekit.core.rows.field import RowField
from odekit.core.rows.tolerance import RowTolerance
from odekit.core.solution import Status
from odekit.core.tolerance import Tolerance
from odekit.errors import InputError, OptionError, nearest

_NO_ESTIMATE = (
    "solver {name!r} has no error estimate, so its steps cannot adapt; "
    "give step_size=..., or choose an adaptive solver such as 'dopri5'"
)


def _positive(instance: Any, attribute: Any, value: float) -> None:
    if isinstance(value, bool) or not (isinstance(value, int | float) and 0 < value < math.inf):
        raise InputError(f"{attribute.name}={value!r}: expected a positive, finite number")


@attrs.frozen
class FixedStep(StepControl):
    """Equal steps over the whole span, as few as keep each no longer than ``step_size`` (to a thousandth of a step).

    Every step counts; nothing is read back from the device.
    """

    step_size: float = attrs.field(validator=_positive)

    adaptive = False

    def start(
        self,
        f: VectorField,
        t0: float,
        t1: float,
        y0: Tensor,
        solver: ODESolver,
        tolerance: Tolerance,
        f0: Tensor | None = None,
    ) -> Proposal:
        if math.isinf(t1):
            grid = _Grid(t0, t0 + math.copysign(self.step_size, t1 - t0), 1)
        else:
            grid = _Grid(t0, t1, self.count(t0, t1))
        return Proposal(grid.time(1), (grid, 1), f0)

    def count(self, t0: float, t1: float) -> int:
        """How many steps there are in a finite span."""
        return max(1, math.ceil(min(abs(t1 - t0) / self.step_size, sys.maxsize) - 1e-3))

    def judge(self, step: Step, t0: float, t1: float, solver: ODESolver, tolerance: Tolerance, carry: Any) -> Verdict:
        if not step.status.ok:
            return Verdict(False, None, carry, step.status)
        grid, reached = carry
        if abs(t1 - grid.t0) >= abs(grid.time(reached) - grid.t0):  # else the step was cut short, at a forced stop
            reached += 1
        return Verdict(True, grid.time(reached), (grid, reached))

    def start_rows(
        self,
        f: RowField,
        t0: np.ndarray,
        t1: np.ndarray,
        y0: Tensor,
        solver: ODESolver,
        tolerance: RowTolerance,
        f0: Tensor | None = None,
        sizes: np.ndarray | None = None,
    ) -> RowProposal:
        return by_rows.fixed_start(self.step_size, t0, t1, f0)

    def judge_rows(
        self, step: Step, t0: np.ndarray, t1: np.ndarray, solver: ODESolver, tolerance: RowTolerance, carry: Any
    ) -> RowVerdict:
        """Rows whose state is not finite any more give up; to know them, one read from the device a step."""
        return by_rows.fixed_judge(step, t1, carry)


@attrs.frozen
class _Grid:
    """Times from ``t0`` on, of which the one with number ``count`` is ``t1``."""

    t0: float
    t1: float
    count: int

    def time(self, n: int) -> float:
        return self.t1 if n == self.count else self.t0 + (self.t1 - self.t0) * (n / self.count)


@attrs.define(eq=False)  # not frozen, which is slow to make, and cannot be part of a compiled graph
class History:
    """What a control remembers.

    The scaled errors of the last two accepted steps, whether it just rejected, and the size of the last accepted step
    (0 before there is one). With steps by row each is an array ``[B]``.
    """

    last: Any = 1.0
    before: Any = 1.0
    rejected: Any = False
    size: Any = 0.0

    def by_row(self, accepted: np.ndarray, error: np.ndarray, size: np.ndarray) -> History:
        """What to remember after steps with these errors and of these sizes, of which some were accepted."""
        return History(
            np.where(accepted, error, self.last),
            np.where(accepted, self.last, self.before),
            ~accepted,
            np.where(accepted, size, self.size),
        )


@attrs.frozen
class PIDControl(StepControl):
    """Keeps the scaled local error e below one by a digital controller on log e.

    The next step is ``dt · safety · e_n^-(p+i+d)/k · e_{n-1}^(p+2d)/k · e_{n-2}^-d/k`` with k one more than the order
    of the embedded method (Söderlind 2003, *Digital filters in adaptive time-stepping*; Hairer & Wanner, *Solving ODEs
    II*, IV.2). After a rejection only the integral part acts and the step does not grow at once. Where a step says
    itself by how much the next one should grow, that counts instead, within the same bounds.

    Attributes:
        pcoeff, icoeff, dcoeff: p, i and d above. (0, 1, 0) is the classical I control.
        safety: aims below the tolerance.
        factor_min, factor_max: bounds on the change from one step to the next.
        dt_min, dt_max: bounds on the step size; a step that would have to be shorter than ``dt_min`` ends the solve.
        first_step: size of the first step; by default estimated at the cost of two calls of f (Hairer, Nørsett &
            Wanner, *Solving ODEs I*, II.4).
    """

    pcoeff: float = 0.0
    icoeff: float = 1.0
    dcoeff: float = 0.0
    safety: float = attrs.field(default=0.9, validator=_positive)
    factor_min: float = attrs.field(default=0.2, validator=_positive)
    factor_max: float = attrs.field(default=10.0, validator=_positive)
    dt_min: float = 0.0
    dt_max: float = math.inf
    first_step: float | None = attrs.field(default=None, validator=attrs.validators.optional(_positive))

    adaptive = True

    def __attrs_post_init__(self) -> None:
        if not all(map(math.isfinite, (self.pcoeff, self.icoeff, self.dcoeff))):
            raise InputError(f"pcoeff, icoeff, dcoeff = {self.pcoeff}, {self.icoeff}, {self.dcoeff}: expected numbers")
        if not (self.safety <= 1 and self.factor_min < 1 < self.factor_max):
            raise InputError(
                f"safety={self.safety}, factor_min={self.factor_min}, factor_max={self.factor_max}: "
                "expected safety <= 1 and factor_min < 1 < factor_max, or steps could not both shrink and grow"
            )
        if not (0 <= self.dt_min <= self.dt_max and self.dt_max > 0):
            raise InputError(f"dt_min={self.dt_min}, dt_max={self.dt_max}: expected 0 <= dt_min <= dt_max, dt_max > 0")

    def start(
        self,
        f: VectorField,
        t0: float,
        t1: float,
        y0: Tensor,
        solver: ODESolver,
        tolerance: Tolerance,
        f0: Tensor | None = None,
    ) -> Proposal:
        if solver.error_order is None:
            raise OptionError(_NO_ESTIMATE.format(name=solver.name))
        direction = math.copysign(1.0, t1 - t0)
        if self.first_step is not None:
            return Proposal(t0 + direction * min(self.first_step, self.dt_max), History(), f0)
        f0 = f(t0, y0) if f0 is None else f0
        with torch.no_grad():
            size = _first_step(f, t0, t1, y0.detach(), f0.detach(), solver.error_order + 1, tolerance)
        if size is None:
            return Proposal(t0, History(), f0, Status.NON_FINITE)
        return Proposal(t0 + direction * min(max(size, self.dt_min), self.dt_max), History(), f0)

    def judge(self, step: Step, t0: float, t1: float, solver: ODESolver, tolerance: Tolerance, carry: Any) -> Verdict:
        if not step.status.ok:
            return self._retry(t0, t1, 0.25, carry, step.status)
        with torch.no_grad():
            ratio = tolerance.scaled(step)
        if ratio is None or solver.error_order is None:
            raise OptionError(_NO_ESTIMATE.format(name=solver.name))
        error = lanes.worst(ratio)
        if not math.isfinite(error):
            return self._retry(t0, t1, 0.1, carry, Status.NON_FINITE)
        k = solver.error_order + 1
        if error > 1:
            factor = min(self.safety, 0.9) * error ** (-1 / k) if step.growth is None else min(step.growth, 0.9)
            return self._retry(t0, t1, max(self.factor_min, factor), carry, Status.SUCCESS)
        error = max(error, 1e-10)
        ceiling = 1.0 if carry.rejected else self.factor_max
        change = self.safety * self.change(error, abs(t1 - t0), carry, k) if step.growth is None else step.growth
        size = abs(t1 - t0) * min(max(change, self.factor_min), ceiling)
        size = min(max(size, self.dt_min), self.dt_max)
        return Verdict(True, t1 + math.copysign(size, t1 - t0), History(error, carry.last, size=abs(t1 - t0)))

    def change(self, error: Any, size: Any, carry: History, k: int) -> Any:
        """The factor by which to change an accepted step; ``error`` and ``size`` may be arrays ``[B]``."""
        p, i, d = self.pcoeff, self.icoeff, self.dcoeff
        found = error ** (-(p + i + d) / k)
        if p or d:  # else the powers below are 1
            found = found * carry.last ** ((p + 2 * d) / k) * carry.before ** (-d / k)
        return found

    def limited(self, limits: Mapping[str, float]) -> PIDControl:
        return attrs.evolve(self, **limits)

    def start_rows(
        self,
        f: RowField,
        t0: np.ndarray,
        t1: np.ndarray,
        y0: Tensor,
        solver: ODESolver,
        tolerance: RowTolerance,
        f0: Tensor | None = None,
        sizes: np.ndarray | None = None,
    ) -> RowProposal:
        count = len(t0)
        history = History(np.ones(count), np.ones(count), np.zeros(count, dtype=bool), np.zeros(count))
        return by_rows.pid_start(self, history, f, t0, t1, y0, solver, tolerance, f0, sizes)

    def judge_rows(
        self, step: Step, t0: np.ndarray, t1: np.ndarray, solver: ODESolver, tolerance: RowTolerance, carry: Any
    ) -> RowVerdict:
        return by_rows.pid_judge(self, step, t0, t1, solver, tolerance, carry)

    def resumed(self, step_size: float) -> PIDControl:
        return attrs.evolve(self, first_step=step_size) if step_size > 0 else self

    def _retry(self, t0: float, t1: float, factor: float, carry: History, status: Status) -> Verdict:
        size = abs(t1 - t0) * factor
        if size < self.dt_min:
            return Verdict(False, None, carry, Status.STEP_UNDERFLOW if status.ok else status)
        return Verdict(False, t0 + math.copysign(size, t1 - t0), attrs.evolve(carry, rejected=True), status)


@attrs.frozen
class PredictiveControl(PIDControl):
    """Expects the error constant to go on changing as it did over the last step.

    The next step is ``dt_n · safety · (dt_n / dt_{n-1}) · (e_{n-1} / e_n)^(1/k) · e_n^(-1/k)``, never longer than
    that of I control. Suits stiff problems, whose error constant changes fast. Gustafsson 1994, *Control-theoretic
    techniques for stepsize selection in implicit Runge-Kutta methods*; Hairer & Wanner, *Solving ODEs II*, (IV.8.25).
    """

    def change(self, error: Any, size: Any, carry: History, k: int) -> Any:
        plain = error ** (-1 / k)
        with np.errstate(divide="ignore"):
            trend = np.divide(size, carry.size) * (np.maximum(carry.last, 1e-2) / error) ** (1 / k)
        return plain * np.minimum(1.0, trend)  # of infinity before there is a last step


def _first_step(
    f: VectorField, t0: float, t1: float, y0: Tensor, f0: Tensor, k: int, tolerance: Tolerance
) -> float | None:
    """The size of a first step, from the scale of y, of f and of its change; None where f is not finite at ``y0``."""
    span = abs(t1 - t0)
    if math.isinf(span):
        span = max(1.0, abs(t0))
    scale = tolerance.scale(y0)
    norms = lanes.laid_open(torch.stack([tolerance.norm(y0 / scale), tolerance.norm(f0 / scale)])).tolist()
    small = 1e-6 * span
    if not np.isfinite(norms).all():
        return small if lanes.everywhere(y0.isfinite().all() & f0.isfinite().all()) else None
    trial = min(span, *(small if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1 for d0, d1 in norms))
    dt = math.copysign(trial, t1 - t0)
    f1 = f(t1 if trial == abs(t1 - t0) else t0 + dt, torch.add(y0, f0, alpha=dt))
    d2 = lanes.worst(tolerance.norm((f1 - f0) / scale)) / trial
    if not math.isfinite(d2):
        return trial
    sharpest = max(d2, *(d1 for _, d1 in norms))
    better = max(small, trial * 1e-3) if sharpest <= 1e-15 else (0.01 / sharpest) ** (1 / k)
    return min(100 * trial, better, span)


CONTROLS: dict[str, StepControl] = {
    "i": PIDControl(),
    "pi": PIDControl(pcoeff=0.2, icoeff=0.65),
    "pid": PIDControl(pcoeff=0.01, icoeff=0.47, dcoeff=0.1),
    "predictive": PredictiveControl(),
}


def resolve_control(
    control: str | StepControl | None,
    step_size: float | None,
    solver: ODESolver,
    limits: Mapping[str, float | None] | None = None,
) -> StepControl:
    """The control that these options ask for: a name or an instance, fixed steps, or the default.

    ``limits`` are ``dt_min``, ``dt_max`` and ``first_step``, None where they are left alone.

    Raises:
        OptionError: both a control and a step size are given, or the solver needs fixed steps and has no step size.
    """
    if control is not None and step_size is not None:
        raise OptionError("give either control= or step_size=, not both; step_size=h is short for control=FixedStep(h)")
    given = {name: value for name, value in (limits or {}).items() if value is not None}
    if step_size is not None:
        control = FixedStep(step_size)
    if isinstance(control, str):
        if control.lower() not in CONTROLS:
            raise InputError(f"control={control!r} is not known. {nearest(control, CONTROLS)}")
        control = CONTROLS[control.lower()]
    own = solver.own_control()
    if control is None:
        control = CONTROLS["i"] if own is None else own
    if not isinstance(control, StepControl):
        raise InputError(
            f"control is a {type(control).__name__}; expected one of {', '.join(CONTROLS)} or a StepControl"
        )
    if control.adaptive and solver.error_order is None and type(control) is not type(own):
        raise OptionError(_NO_ESTIMATE.format(name=solver.name))
    return control.limited(given) if given else control
