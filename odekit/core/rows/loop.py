"""The loop in which every row of the batch steps on its own, all of them at once.

The host keeps the times, sizes and histories of the rows in float64 arrays; from the device it reads the rows' scaled
errors once an iteration, and nothing else. A row that has come to its end leaves, so that what is left in the loop are
the rows that are on their way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from odekit.core.looping import LoopingSolver, Start, Stretch
from odekit.core.protocols import ODESolver, Step, StepControl
from odekit.core.rows.answer import Happened, RowOutcome, RowStats, RowStatus
from odekit.core.rows.clock import RowClock
from odekit.core.rows.course import RowCourse
from odekit.core.rows.dense import KeptRows, Together
from odekit.core.rows.field import RowDynamics, RowField
from odekit.core.rows.monitor import Met, RowMonitor
from odekit.core.rows.outputs import RowOutputs, Slots
from odekit.core.rows.selection import Mismatch, Selection, choose, pick, put
from odekit.core.rows.stops import RowStops
from odekit.core.rows.tolerance import RowTolerance
from odekit.core.solution import Stats, Status
from odekit.core.times import Time
from odekit.errors import OptionError


@attrs.frozen(eq=False)
class RowsAccepted:
    """What was accepted in one iteration, as a gradient method may keep it.

    Attributes:
        field: of the rows that took part.
        solver: the one that took the step, prepared for their tolerances.
        accepted: ``[K]``, whose steps counted.
        t0, t1: ``[K]``, host times of the ends of the steps.
        y0: the states at their starts, ``[K, ...]``.
        carry: what the solver was handed; None for a solver that is ``memoryless``.
        step: what it made of that.
        slots: the outputs that lie in the accepted steps; None if there are none.
        fresh: ``[K]``, whose carry came from ``init``: at the start, and after a discontinuity.
    """

    field: RowField
    solver: ODESolver
    accepted: np.ndarray
    t0: np.ndarray
    t1: np.ndarray
    y0: Tensor
    carry: Any
    step: Step
    slots: Slots | None
    fresh: np.ndarray


@attrs.frozen(eq=False)
class _Active:
    """The rows that are on their way, and all that moves with them; arrays are ``[K]``."""

    field: RowField
    solver: ODESolver
    tolerance: RowTolerance
    t: np.ndarray
    end: np.ndarray
    t_next: np.ndarray
    y: Tensor
    carry: Any
    judged: Any
    why: np.ndarray
    rejected: np.ndarray
    stop: np.ndarray
    wanted: np.ndarray
    fresh: np.ndarray

    @property
    def rows(self) -> Selection:
        return self.field.rows

    def only(self, positions: Selection, solver: ODESolver) -> _Active:
        """The rows at these positions; ``solver`` is the one that has not been prepared."""
        tolerance = self.tolerance.on(positions)
        moving = (self.t, self.end, self.t_next, self.y, self.carry, self.judged, self.why, self.rejected)
        t, end, t_next, y, carry, judged, why, rejected = pick(moving, positions)
        stop, wanted, fresh = pick((self.stop, self.wanted, self.fresh), positions)
        return _Active(
            self.field.on(positions), solver.prepared(tolerance), tolerance,
            t, end, t_next, y, carry, judged, why, rejected, stop, wanted, fresh,
        )  # fmt: skip


def integrate_rows(
    dynamics: RowDynamics,
    y0: Tensor,
    clock: RowClock,
    solver: ODESolver,
    control: StepControl,
    tolerance: RowTolerance,
    max_steps: int,
    *,
    f0: Tensor | None = None,
    sizes: np.ndarray | None = None,
    on_accept: Callable[[RowsAccepted], None] | None = None,
    course: RowCourse | None = None,
) -> RowOutcome:
    """Integrate every row from its first to its last time, and record its state at every time in between.

    ``f0`` is dy/dt of all rows at their starts and ``sizes`` the sizes of their first steps, where the caller has them;
    ``on_accept`` is told of every iteration in which a step was accepted; ``course`` says what else there is to do.
    ``max_steps`` is for each row, with those of ``course.taken`` counted.
    """
    course = RowCourse() if course is None else course
    start, stop = clock.times[:, 0].copy(), clock.times[:, -1]
    count = len(start)
    outputs = RowOutputs(clock, y0, course.every_step, not course.watches)
    monitor = RowMonitor(course.watches, count, course.fired) if course.watches else None
    stops, hooks = course.stops, course.hooks
    statuses = np.full(count, Status.SUCCESS, dtype=object)
    reached, ahead = stop.copy(), np.zeros(count)
    accepted, steps = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    least = 1e-25 * np.where(np.isinf(stop - start), 0.0, np.abs(stop - start))

    def give_up(rows: Selection, why: np.ndarray, t: np.ndarray, y: Tensor) -> None:
        statuses[rows.index] = why
        reached[rows.index] = t
        outputs.stop(rows, y)

    def leave(active: _Active, gone: np.ndarray, why: np.ndarray | None = None) -> _Active:
        """The rows that stay; the others end here, with a reason if they have not come to their end."""
        if not gone.any():
            return active
        if why is not None:
            positions = Selection(np.flatnonzero(gone), y0.device)
            give_up(active.rows.among(positions), why[gone], active.t[gone], pick(active.y, positions))
        return active.only(Selection(np.flatnonzero(~gone), y0.device), solver)

    still = Selection(np.flatnonzero(start == stop), y0.device)
    if len(still):
        outputs.rest(dynamics.on(still), pick(y0, still))
    moving = dynamics.everyone if not len(still) else Selection(np.flatnonzero(start != stop), y0.device)
    if len(moving):
        if len(still):
            sizes = None if sizes is None else sizes[moving.index]
            f0 = None if f0 is None else pick(f0, moving)
        y = pick(y0, moving) if len(still) else y0
        if stops.crossed(start).any():
            f0 = None  # known from neither side
        field = _around(dynamics.on(moving), stops, start[moving.index], stop[moving.index])
        active = _begin(field, y, clock, solver, control, tolerance.on(moving), f0, sizes, stops, leave)
    else:
        active = None
    budget = np.broadcast_to(max_steps - course.taken, count)
    if active is not None and len(active.rows) and isinstance(active.solver, LoopingSolver) and on_accept is None:
        stretch = _ridden(active, active.solver, control, budget, clock) if course.quiet else None
        if stretch is not None:
            rows, statuses_now = active.rows, np.array(stretch.statuses, dtype=object)
            steps[rows.index], accepted[rows.index] = stretch.steps, stretch.accepted
            ahead[rows.index] = stretch.wanted - stretch.t
            done = np.array([status.ok for status in statuses_now])
            reached_outputs = stretch.outputs if stretch.ys is not None else done.astype(np.int64)
            outputs.told(rows, reached_outputs, stretch.ys, stretch.y)
            failed = Selection(np.flatnonzero(~done), y0.device)
            if len(failed):
                give_up(
                    rows.among(failed), statuses_now[failed.index], stretch.t[failed.index], pick(stretch.y, failed)
                )
            if course.recorder is not None:
                course.recorder.dropped = True
            active = None
    while active is not None and len(active.rows):
        stuck = _stuck(active, least)
        gone = stuck | (steps[active.rows.index] >= budget[active.rows.index])
        if gone.any():
            why = _too_short(active.why)
            why[~stuck] = Status.MAX_STEPS
            active = leave(active, gone, why)
            if not len(active.rows):
                break
        rows, t0, t1 = active.rows, active.t, active.t_next
        if hooks is not None:
            hooks.attempt(rows, t1)
        step = _step(active, clock, control.adaptive)
        verdict = control.judge_rows(step, t0, t1, active.solver, active.tolerance, active.judged)
        ok = verdict.accept
        steps[rows.index] += 1
        accepted[rows.index] += ok
        y, carry = active.y, active.carry if step.retry is None else step.retry
        met: Met | None = None
        if hooks is not None:
            hooks.judged(rows, t1, ok)
        if ok.any():
            if monitor is not None:
                step = active.solver.densify(active.field, step)
                met = monitor.inspect(active.field, active.solver, step, t0, t1, ok)
            y, carry, step, slots = _advanced(
                active, control.adaptive, step, ok, verdict.statuses, clock, outputs, solver, course, met
            )
            if on_accept is not None:
                handed = None if solver.memoryless else active.carry
                on_accept(
                    RowsAccepted(active.field, active.solver, ok, t0, t1, active.y, handed, step, slots, active.fresh)
                )
        t = np.where(ok, t1, t0)
        wanted = _remembered(active, ok, verdict.t_next) if control.adaptive else verdict.t_next
        stopped = np.zeros(len(t), dtype=bool) if met is None else met.stopped
        if met is not None and stopped.any():
            t, y = np.where(stopped, met.t, t), choose(stopped, met.y, y)
        if hooks is not None and ok.any():
            hooks.reached(rows, t, y)
        ahead[rows.index] = wanted - t
        stop_at = stops.next_after(t, active.end)
        active = _Active(
            active.field, active.solver, active.tolerance, t, active.end, _clipped(t, wanted, stop_at), y, carry,
            verdict.carry, verdict.statuses, np.where(ok, np.nan, t1), stop_at, wanted, active.fresh & ~ok,
        )  # fmt: skip
        if stopped.any():
            active = leave(active, stopped, np.full(len(t), Status.EVENT, dtype=object))
            t = active.t
        done = t == active.end
        lost = ~done & np.isnan(active.t_next)
        if lost.any():
            active = leave(active, lost, _too_short(active.why))
            done = done[~lost]
        active = _across(leave(active, done), stops, clock, solver)
    complete = statuses == Status.SUCCESS
    ys, y1, broken = outputs.collected(complete)
    if broken.any():
        statuses[broken] = Status.NON_FINITE
        reached[broken] = outputs.times[broken, outputs.next[broken] - 1]
    cost = Stats(nfe=dynamics.nfe, jacobians=dynamics.jacobians)
    stats = RowStats(torch.from_numpy(steps), torch.from_numpy(accepted), torch.from_numpy(steps - accepted), (cost,))
    recorder = course.recorder
    pieces = None if recorder is None or recorder.dropped else Together(tuple(recorder.steps))
    happened = None if monitor is None else Happened.among(outputs.event, monitor.found, y0)
    return RowOutcome(
        ys, reached, y1, RowStatus(tuple(statuses)), stats, np.abs(np.nan_to_num(ahead)), outputs.next, broken,
        outputs.times, outputs.index, pieces, happened,
    )  # fmt: skip


def _ridden(
    active: _Active, solver: LoopingSolver, control: StepControl, budget: np.ndarray, clock: RowClock
) -> Stretch | None:
    """All steps of all rows, by a solver that can take them; None if it cannot."""
    if clock.differentiable:
        return None
    rows = active.rows.index
    start = Start(
        active.t,
        active.wanted,
        active.end,
        active.y,
        active.carry,
        active.judged,
        budget[rows],
        clock.times[rows, 1:].T,
    )
    stretches = solver.loop(active.field, start, control, active.tolerance, keep=False)
    return None if stretches is None else list(stretches)[-1]


def _begin(
    field: RowField,
    y0: Tensor,
    clock: RowClock,
    solver: ODESolver,
    control: StepControl,
    tolerance: RowTolerance,
    f0: Tensor | None,
    sizes: np.ndarray | None,
    stops: RowStops,
    leave: Callable[[_Active, np.ndarray, np.ndarray], _Active],
) -> _Active:
    """The rows before their first steps, without those that cannot take one."""
    rows = field.rows
    t, end = clock.times[rows.index, 0].copy(), clock.times[rows.index, -1].copy()
    prepared = solver.prepared(tolerance)
    proposal = control.start_rows(field, t, end, y0, prepared, tolerance, f0, sizes)
    stop = stops.next_after(t, end)
    active = _Active(
        field, prepared, tolerance, t, end, _clipped(t, proposal.t_next, stop), y0, None, proposal.carry,
        proposal.statuses, np.full(len(rows), np.nan), stop, proposal.t_next, np.ones(len(rows), dtype=bool),
    )  # fmt: skip
    bad = np.array([not status.ok for status in proposal.statuses], dtype=bool)
    active = leave(active, bad, proposal.statuses)
    f0 = proposal.f0
    if len(active.rows):
        t0 = clock(active.t, active.rows)
        if f0 is not None and (clock.differentiable or bad.any()):
            f0 = active.field(t0, active.y)  # connected to the times, and to no row that is not finite
        return attrs.evolve(active, carry=active.solver.init(active.field, t0, active.y, f0))
    return active


def _around(field: RowField, stops: RowStops, t: np.ndarray, end: np.ndarray) -> RowField:
    """The field between the discontinuities on either side of steps that begin at ``t``."""
    return field.confined(*stops.around(t, end)) if len(stops.jumps) else field


def _across(active: _Active, stops: RowStops, clock: RowClock, solver: ODESolver) -> _Active:
    """The rows, of which those that have come to a discontinuity begin anew behind it."""
    if not len(stops.jumps):
        return active
    crossed = stops.crossed(active.t) & ~active.fresh
    if not crossed.any():
        return active
    active = attrs.evolve(active, field=_around(active.field, stops, active.t, active.end))
    positions = Selection(np.flatnonzero(crossed), active.y.device)
    some = active.only(positions, solver)
    made = some.solver.init(some.field, clock(some.t, some.rows), some.y)
    if crossed.all():
        carry = made
    else:
        nobody = np.zeros(len(crossed), dtype=bool)
        carry = _joined(active, active.y, nobody, clock, lambda: put(positions, made, active.carry))
    return attrs.evolve(active, carry=carry, fresh=active.fresh | crossed)


def _remembered(active: _Active, ok: np.ndarray, t_next: np.ndarray) -> np.ndarray:
    """The ends of the next steps where a forced stop does not make the control forget its step size."""
    t1 = active.t_next
    forced = ok & (t1 == active.stop)
    if not forced.any():
        return t_next
    ahead = active.wanted - active.t
    return np.where(forced & (np.abs(ahead) > np.abs(t_next - t1)), t1 + ahead, t_next)


def _clipped(t: np.ndarray, wanted: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """The ends of the next steps: not beyond the stops, and without leaving slivers in front of them."""
    return np.where(np.abs(stop - t) <= np.abs(wanted - t) * 1.01, stop, wanted)


def _stuck(active: _Active, least: np.ndarray) -> np.ndarray:
    """Which rows have come to steps that are too short to take; ``least [B]`` is what is so anywhere in a span."""
    t, t_next = active.t, active.t_next
    shortest = np.maximum(4 * np.spacing(np.abs(t)), least[active.rows.index])
    too_short: np.ndarray = (t_next != active.stop) & (np.abs(t_next - t) < shortest)
    return too_short | (t_next == active.rejected)


def _too_short(why: np.ndarray) -> np.ndarray:
    """Why rows give up whose steps have become too short, where ``why`` was said of their last ones."""
    return np.array([Status.STEP_UNDERFLOW if status.ok else status for status in why], dtype=object)


def _step(active: _Active, clock: RowClock, adaptive: bool) -> Step:
    """The next step of all these rows; where nobody reads its error, one that may have none."""
    take = active.solver.step if adaptive else active.solver.advance
    rows = active.rows
    return take(active.field, clock(active.t, rows), clock(active.t_next, rows), active.y, active.carry)


def _advanced(
    active: _Active, adaptive: bool, step: Step, ok: np.ndarray, statuses: np.ndarray, clock: RowClock,
    outputs: RowOutputs, solver: ODESolver, course: RowCourse, met: Met | None,
) -> tuple[Tensor, Any, Step, Slots | None]:  # fmt: skip
    """State and carry after the accepted steps, the step, densified if need be, and its outputs, which are recorded.

    A rejected step that is not finite would spoil the gradients of everything that it shares with other rows (zero
    times infinity), so where gradients flow the accepted rows then take their steps again without it.
    """
    before = active.carry if step.retry is None else step.retry
    if not ok.all() and step.y1.requires_grad and not all(status.ok for status in statuses[~ok]):
        positions = Selection(np.flatnonzero(ok), active.y.device)
        some = active.only(positions, solver)
        everyone, plain = np.ones(len(some.t), dtype=bool), _step(some, clock, adaptive)
        if met is not None:
            plain, met = some.solver.densify(some.field, plain), met.on(positions.index)
        again, _ = outputs.take(some.field, some.solver, plain, some.t, some.t_next, everyone, met)
        _record(course, some, again, everyone, met is not None or again is not plain)
        y = put(positions, again.y1, active.y)
        return y, _joined(active, y, ok, clock, lambda: put(positions, again.carry, before)), step, None
    plain = step
    step, slots = outputs.take(active.field, active.solver, step, active.t, active.t_next, ok, met)
    _record(course, active, step, ok, met is not None or step is not plain)
    if ok.all():
        return step.y1, step.carry, step, slots
    y = choose(ok, step.y1, active.y)
    return y, _joined(active, y, ok, clock, lambda: choose(ok, step.carry, before)), step, slots


def _record(course: RowCourse, active: _Active, step: Step, accepted: np.ndarray, dense: bool) -> None:
    if course.recorder is not None:
        kept = KeptRows(active.field, active.solver, step, active.t, active.t_next, accepted, dense)
        course.recorder.add(kept)


def _joined(active: _Active, y: Tensor, ok: np.ndarray, clock: RowClock, join: Callable[[], Any]) -> Any:
    """The carries of accepted and rejected rows in one."""
    try:
        return join()
    except Mismatch:
        if not active.solver.memoryless:
            raise OptionError(
                f"solver {active.solver.name!r} changes how its carry is nested from one step to the next, so that it "
                "cannot step by rows; it must not say rowwise = True"
            ) from None
        t: Time = clock(np.where(ok, active.t_next, active.t), active.rows)
        return active.solver.init(active.field, t, y)
