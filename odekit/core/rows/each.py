"""A step control that knows shared steps only, asked about one row after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from torch import Tensor

from odekit.core.rows.selection import Selection
from odekit.core.times import RowTimes

if TYPE_CHECKING:
    from odekit.core.protocols import ODESolver, RowProposal, RowVerdict, Step, StepControl
    from odekit.core.rows.field import RowField
    from odekit.core.rows.tolerance import RowTolerance


def start_each(
    control: StepControl,
    f: RowField,
    t0: np.ndarray,
    t1: np.ndarray,
    y0: Tensor,
    solver: ODESolver,
    tolerance: RowTolerance,
    f0: Tensor | None,
    sizes: np.ndarray | None,
) -> RowProposal:
    """What ``control.start`` says about each row."""
    from odekit.core.protocols import RowProposal

    f0 = f(RowTimes(t0), y0) if f0 is None else f0
    proposals = []
    for row in range(len(t0)):
        alone = control if sizes is None else control.resumed(float(sizes[row]))
        field = f.on(Selection(np.array([row]), y0.device))
        ends = float(t0[row]), float(t1[row])
        one = slice(row, row + 1)
        proposals.append(alone.start(field, *ends, y0[one], solver, tolerance.alone(row), f0[one]))
    return RowProposal(
        np.array([proposal.t_next for proposal in proposals], dtype=np.float64),
        _objects([proposal.carry for proposal in proposals]),
        f0,
        _objects([proposal.status for proposal in proposals]),
    )


def judge_each(
    control: StepControl,
    step: Step,
    t0: np.ndarray,
    t1: np.ndarray,
    solver: ODESolver,
    tolerance: RowTolerance,
    carry: Any,
) -> RowVerdict:
    """What ``control.judge`` says about each row."""
    from odekit.core.protocols import RowVerdict

    verdicts = []
    for row in range(len(t0)):
        ends = float(t0[row]), float(t1[row])
        verdicts.append(control.judge(_row_of(step, row, *ends), *ends, solver, tolerance.alone(row), carry[row]))
    next_ones = [np.nan if verdict.t_next is None else verdict.t_next for verdict in verdicts]
    return RowVerdict(
        np.array([verdict.accept for verdict in verdicts], dtype=bool),
        np.array(next_ones, dtype=np.float64),
        _objects([verdict.carry for verdict in verdicts]),
        _objects([verdict.status for verdict in verdicts]),
    )


def _row_of(step: Step, row: int, t0: float, t1: float) -> Step:
    """A step of one row, with what a control may look at."""
    one = slice(row, row + 1)
    return attrs.evolve(
        step,
        t0=t0,
        t1=t1,
        y0=step.y0[one],
        y1=step.y1[one],
        error=None if step.error is None else step.error[one],
        carry=None,
        dense=None,
        status=step.status if step.row_statuses is None else step.row_statuses[row],
        row_statuses=None,
    )


def _objects(things: list[Any]) -> np.ndarray:
    array = np.empty(len(things), dtype=object)
    array[:] = things
    return array
