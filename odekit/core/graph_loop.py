"""The loop over adaptive steps as part of a graph: the decisions of the host's loops, made on tensors.

Lanes are what has a time of its own: one for a whole batch with shared steps, every row with steps by row. What is one
number a lane has the shape ``S``: ``[]`` or ``[B]``. Steps are those of :func:`odekit.core.integrate.integrate` and of
:func:`odekit.core.rows.loop.integrate_rows`, to rounding.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from odekit.core.control import History, PIDControl
from odekit.core.graph_field import GraphField
from odekit.core.graph_layout import GraphLayout
from odekit.core.protocols import ODESolver
from odekit.core.tolerance import Norm

WINDOW = 4
"""Outputs that are taken from a step at once; a step with more of them in it is taken again for the next ones."""

GOING, DONE, MAX_STEPS, UNDERFLOW, NON_FINITE = range(5)
"""How a lane stands."""


class Real(enum.IntEnum):
    """What is known of a lane in float64: ``[6, *S]``.

    Its time; where its next step should end if nothing was in the way; where the last rejected try at it ended, else
    NaN; the scaled errors of the last two accepted steps, and the size of the last one.
    """

    T, WANTED, GONE, LAST, BEFORE, SIZE = range(6)


class Whole(enum.IntEnum):
    """What is known of a lane in integers: ``[7, *S]``.

    Whether its last step was rejected, how it stands, what was wrong with the last try, how many steps were tried and
    accepted, the number of its next output, and how many steps are in the record.
    """

    REJECTED, CODE, WHY, STEPS, ACCEPTED, OUTPUT, FILLED = range(7)


def looped(
    solver: ODESolver,
    control: PIDControl,
    call: Callable[..., Any],
    args: tuple[Any, ...],
    layout: GraphLayout | None,
    column: tuple[int, ...] | None,
    norm: Norm,
    rtol: Tensor,
    atol: Tensor,
    ends: Tensor,
    budget: Tensor,
    limit: Tensor,
    times: Tensor | None,
    reals: Tensor,
    wholes: Tensor,
    y: Tensor,
    carry: Tensor | None,
    ys: Tensor | None,
    kept: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, ...]:
    """Step until all lanes have ended, ``limit`` iterations are over, or the record is full.

    Args:
        ends: ``[5, *S]``: the last time, the bounds of the span from below and above, the direction, and the shortest
            step that means something anywhere in the span.
        budget: ``S``, how many steps may be tried.
        times: output times, ``[T, *S]``, followed by enough infinite ones; None without outputs on the way.
        reals, wholes: how the lanes stand, see :class:`Real` and :class:`Whole`.
        carry: what the solver hands on, a tensor like ``y`` or nothing.
        ys: ``[T + 1, *y.shape]``, where the outputs go; the last one is for waste.
        kept: for a single lane, the record of accepted steps: ``[K + 1, 2]`` their ends, ``[K + 1, *y.shape]`` the
            states at their starts.

    Returns:
        The number of iterations, and what has become of ``reals, wholes, y, carry, ys, kept``, without what is None.
    """
    places = [carry is not None, ys is not None, kept is not None]
    assert solver.error_order is not None
    k = solver.error_order + 1
    by_row = int(reals.ndim > 1)

    def wide(x: Tensor, y: Tensor) -> Tensor:
        """``[..., *S]`` as something that broadcasts against ``[..., *y.shape]``."""
        return x.reshape(*x.shape, *(1,) * (y.ndim - by_row))

    def going_on(count: Tensor, reals: Tensor, wholes: Tensor, y: Tensor, *rest: Tensor) -> Tensor:
        going = (wholes[Whole.CODE] == GOING).any() & (count < limit)
        return going & (wholes[Whole.FILLED] < rest[-1].shape[0] - 1) if places[2] else going

    def taken(count: Tensor, reals: Tensor, wholes: Tensor, y: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        remaining = list(rest)
        carry = remaining.pop(0) if places[0] else None
        ys = remaining.pop(0) if places[1] else None
        t, wanted, gone, last, before, size_before = (reals[i] for i in Real)
        rejected, code, why, steps, accepted, output, filled = (wholes[i] for i in Whole)
        t_end, direction, least = ends[0], ends[3], ends[4]
        t1 = torch.where((t_end - t).abs() <= (wanted - t).abs() * 1.01, t_end, wanted)
        size = (t1 - t).abs()
        stuck = ((t1 != t_end) & (size < torch.maximum(4 * _ulp(t), least))) | (t1 == gone)
        spent = steps >= budget
        going = code == GOING
        live = going & ~stuck & ~spent

        low, high, start, end = (wide(x, y) if by_row else x for x in (ends[1], ends[2], t, t1))
        field: Any = GraphField(call, args, layout, column, low, high, y.real.dtype)
        step = solver.step(field, start, end, y, carry)
        assert step.error is not None
        ratio = norm(step.error / (atol + rtol * torch.maximum(y.abs(), step.y1.abs()))).double()
        finite, passed = ratio.isfinite(), ratio <= 1
        error = ratio.clamp_min(1e-10)

        found, more = torch.zeros_like(output), torch.zeros_like(going)
        if ys is not None and times is not None:
            numbers = output + torch.arange(WINDOW + 1, device=output.device).reshape(-1, *(1,) * output.ndim)
            tau = times[numbers] if not by_row else times.gather(0, numbers)
            at_end = (tau - t1).abs() <= 4 * _ulp(torch.maximum(tau.abs(), t1.abs()))
            within = live & passed & (at_end | ((t1 - tau) * direction >= 0))
            theta = wide(((tau - t) / (t1 - t))[:WINDOW], y)
            states = solver.interpolate(solver.densify(field, step), theta)
            states = torch.where(wide(at_end[:WINDOW], y), step.y1, states)
            target = torch.where(within, numbers, ys.shape[0] - 1)[:WINDOW]
            if not by_row:
                ys = ys.index_copy(0, target, states)
            else:
                ys = ys.scatter(0, wide(target, y).expand_as(states), states)
            found, more = within[:WINDOW].sum(0), within[WINDOW]

        live = live & ~more
        accept = live & passed
        change = control.safety * control.change(error, size, History(last, before, rejected, size_before), k)
        ceiling = torch.where(rejected != 0, 1.0, control.factor_max)
        grown = torch.minimum(change.clamp_min(control.factor_min), ceiling) * size
        grown = grown.clamp(control.dt_min, control.dt_max)
        factor = (min(control.safety, 0.9) * error ** (-1 / k)).clamp_min(control.factor_min)
        shrunk = size * torch.where(finite, factor, 0.1)
        lost = live & ~passed & (shrunk < control.dt_min)
        proposed = torch.where(passed, t1 + direction * grown, t + direction * shrunk)
        ahead = wanted - t  # the end of the span does not make the control forget its step size
        remembered = passed & (t1 == t_end) & (ahead.abs() > (proposed - t1).abs())
        proposed = torch.where(remembered, t1 + ahead, proposed)

        trouble = torch.where(finite, 0, NON_FINITE)
        failing = torch.where(lost, trouble, why)
        failing = torch.where(failing == 0, UNDERFLOW, failing)
        code = torch.where(going & (stuck | lost), failing, torch.where(going & spent & ~stuck, MAX_STEPS, code))
        code = torch.where(accept & (t1 == t_end), DONE, code)
        after = torch.stack(
            [
                torch.where(accept, t1, t),
                torch.where(live, proposed, wanted),
                torch.where(live, torch.where(passed, torch.nan, t1), gone),
                torch.where(accept, error, last),
                torch.where(accept, last, before),
                torch.where(accept, size, size_before),
            ]
        )
        counted = torch.stack(
            [
                torch.where(live, (~passed).long(), rejected),
                code,
                torch.where(live, trouble, why),
                steps + live,
                accepted + accept,
                output + found,
                filled + accept,
            ]
        )
        mask = wide(accept, y)
        out = [count + 1, after, counted, torch.where(mask, step.y1, y)]
        if carry is not None:
            out.append(torch.where(mask, step.carry, carry))
        if ys is not None:
            out.append(ys)
        if places[2]:
            spans, starts = remaining
            place = torch.where(accept, filled, starts.shape[0] - 1).reshape(1)
            out += [spans.index_copy(0, place, torch.stack([t, t1])[None]), starts.index_copy(0, place, y[None])]
        return tuple(out)

    carried = [torch.zeros((), dtype=torch.int64, device=y.device), reals, wholes, y]
    carried += [x for x in (carry, ys) if x is not None] + list(kept or ())
    found: Sequence[Tensor] = while_loop(going_on, taken, tuple(x.clone() for x in carried))
    return tuple(found)


def _ulp(x: Tensor) -> Tensor:
    """The distance to the next larger number."""
    size = x.abs()
    return torch.nextafter(size, torch.full_like(size, torch.inf)) - size
