"""Fixed steps and PID control of all rows at once, on host arrays: the formulas of the controls themselves."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from odekit.core.protocols import ODESolver, RowProposal, RowVerdict, Step
from odekit.core.rows.field import RowField
from odekit.core.rows.tolerance import RowTolerance
from odekit.core.solution import Status
from odekit.core.times import RowTimes, on_host
from odekit.errors import OptionError

if TYPE_CHECKING:
    from odekit.core.control import History, PIDControl


def fixed_start(step_size: float, t0: np.ndarray, t1: np.ndarray, f0: Tensor | None) -> RowProposal:
    """Equal steps over every row's span, as few as keep each no longer than ``step_size``.

    Where a span is infinite they are of that size, and go on behind the first one.
    """
    t1 = np.where(np.isinf(t1), t0 + np.copysign(step_size, t1 - t0), t1)
    parts = np.minimum(np.abs(t1 - t0) / step_size, float(sys.maxsize))
    counts = np.maximum(1.0, np.ceil(parts - 1e-3))
    one = np.ones_like(counts)
    return RowProposal(_grid_time(t0, t1, counts, one), (t0, t1, counts, one), f0, _fine(len(t0)))


def fixed_judge(step: Step, ends: np.ndarray, carry: Any) -> RowVerdict:
    """Every step counts, except those that failed or broke."""
    t0, t1, counts, reached = carry
    statuses = _statuses(step, len(t0))
    broken = ~_finite(step.y1)
    for row in np.flatnonzero(broken):
        statuses[row] = Status.NON_FINITE if statuses[row].ok else statuses[row]
    ok = _ok(statuses, step) & ~broken
    whole = np.abs(ends - t0) >= np.abs(_grid_time(t0, t1, counts, reached) - t0)  # else cut short, at a forced stop
    reached = reached + whole
    t_next = np.where(ok, _grid_time(t0, t1, counts, reached), np.nan)
    return RowVerdict(ok, t_next, (t0, t1, counts, reached), statuses)


def _grid_time(t0: np.ndarray, t1: np.ndarray, counts: np.ndarray, n: np.ndarray) -> np.ndarray:
    return np.where(n == counts, t1, t0 + (t1 - t0) * (n / counts))


def pid_start(
    control: PIDControl,
    history: History,
    f: RowField,
    t0: np.ndarray,
    t1: np.ndarray,
    y0: Tensor,
    solver: ODESolver,
    tolerance: RowTolerance,
    f0: Tensor | None,
    sizes: np.ndarray | None,
) -> RowProposal:
    """The first steps of all rows, and dy/dt at their starts."""
    count, statuses = len(t0), _fine(len(t0))
    direction = np.copysign(1.0, t1 - t0)
    f0 = f(RowTimes(t0), y0) if f0 is None else f0
    if sizes is not None and (sizes > 0).all():
        size = np.minimum(sizes, control.dt_max)
    elif control.first_step is not None:
        size = np.full(count, min(control.first_step, control.dt_max))
    else:
        assert solver.error_order is not None
        with torch.no_grad():
            size = _first_steps(f, t0, t1, y0.detach(), f0.detach(), solver.error_order + 1, tolerance)
        statuses[np.isnan(size)] = Status.NON_FINITE
        size = np.minimum(np.maximum(size, control.dt_min), control.dt_max)
    return RowProposal(np.where(np.isnan(size), t0, t0 + direction * size), history, f0, statuses)


def pid_judge(
    control: PIDControl,
    step: Step,
    t0: np.ndarray,
    t1: np.ndarray,
    solver: ODESolver,
    tolerance: RowTolerance,
    carry: History,
) -> RowVerdict:
    """Judge the steps of all rows by their errors, which are read from the device at once."""
    with torch.no_grad():
        ratio = tolerance.scaled(step)
    if ratio is None or solver.error_order is None:
        raise OptionError(f"solver {solver.name!r} gave no error estimate, so its steps cannot adapt")
    k, ahead, error = solver.error_order + 1, t1 - t0, on_host(ratio)
    size, statuses = np.abs(ahead), _statuses(step, len(t0))
    ok = _ok(statuses, step)
    accept = ok & (error <= 1)
    kept = np.maximum(error, 1e-10)
    with np.errstate(all="ignore"):
        growth = np.maximum(control.safety * control.change(kept, size, carry, k), control.factor_min)
    growth = np.minimum(growth, control.factor_max)
    growth[carry.rejected] = np.minimum(growth[carry.rejected], 1.0)
    grown = np.minimum(np.maximum(size * growth, control.dt_min), control.dt_max)
    t_next = t1 + np.copysign(grown, ahead)
    again = np.flatnonzero(~accept)
    if len(again):
        factor = np.maximum(control.factor_min, min(control.safety, 0.9) * kept[again] ** (-1 / k))
        broken, failed = ~np.isfinite(error[again]), ~ok[again]
        factor[broken], factor[failed] = 0.1, 0.25
        statuses[again[broken & ~failed]] = Status.NON_FINITE
        shrunk = size[again] * factor
        shrunk[shrunk < control.dt_min] = np.nan
        t_next[again] = t0[again] + np.copysign(shrunk, ahead[again])
    return RowVerdict(accept, t_next, carry.by_row(accept, kept, size), statuses)


def _first_steps(
    f: RowField, t0: np.ndarray, t1: np.ndarray, y0: Tensor, f0: Tensor, k: int, tolerance: RowTolerance
) -> np.ndarray:
    """The sizes of first steps, from the scale of y, of f and of its change; NaN where f is not finite at the start."""
    span = np.abs(t1 - t0)
    span = np.where(np.isinf(span), np.maximum(1.0, np.abs(t0)), span)
    scale = tolerance.scale(y0)
    d0, d1 = on_host(torch.stack([tolerance.norm(y0 / scale), tolerance.norm(f0 / scale)]))
    small = 1e-6 * span
    measured = np.isfinite(d0) & np.isfinite(d1)
    with np.errstate(all="ignore"):
        trial = np.where((d0 < 1e-5) | (d1 < 1e-5), small, 0.01 * d0 / d1)
    trial = np.where(measured, np.minimum(trial, span), small)
    dt = np.copysign(trial, t1 - t0)
    ends = np.where(trial == np.abs(t1 - t0), t1, t0 + dt)
    f1 = f(RowTimes(ends), y0 + RowTimes(dt).tensor(y0) * f0)
    d2 = on_host(tolerance.norm((f1 - f0) / scale)) / trial
    with np.errstate(all="ignore"):
        sharpest = np.maximum(d1, d2)
        better = np.where(sharpest <= 1e-15, np.maximum(small, trial * 1e-3), (0.01 / sharpest) ** (1 / k))
    size = np.where(np.isfinite(d2), np.minimum(np.minimum(100 * trial, better), span), trial)
    size = np.where(measured, size, small)
    if not measured.all():
        size = np.where(measured | (_finite(y0) & _finite(f0)), size, np.nan)
    return size


def _finite(x: Tensor) -> np.ndarray:
    finite = torch.isfinite(x.detach()).reshape(len(x), math.prod(x.shape[1:])).all(1)
    return np.asarray(on_host(finite) > 0)


def _fine(count: int) -> np.ndarray:
    return _all(Status.SUCCESS, count)


def _all(status: Status, count: int) -> np.ndarray:
    statuses = np.empty(count, dtype=object)
    statuses.fill(status)  # np.full looks for an array in it first
    return statuses


def _statuses(step: Step, count: int) -> np.ndarray:
    if step.row_statuses is None:
        return _all(step.status, count)
    return np.array(step.row_statuses, dtype=object)


def _ok(statuses: np.ndarray, step: Step) -> np.ndarray:
    if step.row_statuses is None and step.status.ok:
        return np.ones(len(statuses), dtype=bool)
    return np.array([status.ok for status in statuses], dtype=bool)
