"""One adaptive solve by a graph with a loop in it: what the host hands over, and what it takes back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odekit.core.compiled import Graph, like
from odekit.core.control import PIDControl
from odekit.core.graph_field import Inlined
from odekit.core.graph_loop import DONE, GOING, MAX_STEPS, NON_FINITE, UNDERFLOW, WINDOW, Real, Whole
from odekit.core.looping import Start, Stretch
from odekit.core.protocols import ODESolver, Step
from odekit.core.solution import Status
from odekit.core.times import RowTimes, Time, on_host
from odekit.core.tolerance import Tolerance

_STATUSES = {
    GOING: None, DONE: Status.SUCCESS, MAX_STEPS: Status.MAX_STEPS, UNDERFLOW: Status.STEP_UNDERFLOW,
    NON_FINITE: Status.NON_FINITE,
}  # fmt: skip

RECORD = 32
"""Accepted steps that gather within the graph before the host takes them."""
_ENDLESS = 2**62


def time_of(t: np.ndarray) -> Time:
    """A time of all lanes as steps without a graph are told it."""
    return RowTimes(t) if t.ndim else float(t)


def cost_of(f: Any) -> tuple[int, int]:
    """Calls of f, and Jacobians of it, so far."""
    return f.nfe, f.jacobians


def since(before: tuple[int, int], f: Any) -> tuple[int, int]:
    """The same since then."""
    return f.nfe - before[0], f.jacobians - before[1]


class Run:
    """One solve by a graph: its arguments, and how it stands."""

    def __init__(
        self, graph: Graph, solver: ODESolver, f: Any, inlined: Inlined, start: Start, control: PIDControl,
        tolerance: Tolerance, keep: bool,
    ) -> None:  # fmt: skip
        self.graph, self.solver, self.f, self.inlined, self.start, self.keep = graph, solver, f, inlined, start, keep
        y, shape = start.y, start.t.shape
        low, high = (np.broadcast_to(bound, shape) for bound in inlined.bounds)
        span = start.t_end - start.t
        least = 1e-25 * np.where(np.isinf(span), 0.0, np.abs(span))
        ends = self._on_device(np.stack([start.t_end, low, high, np.copysign(1.0, span), least]))
        times = None
        if len(start.times) > 1:
            endless = np.full((WINDOW + 1, *shape), 1.0) * np.copysign(np.inf, span)
            times = self._on_device(np.concatenate([start.times, endless]))
        self.arguments = (
            solver, control, inlined.call, inlined.args, inlined.layout, inlined.column, inlined.expand, tolerance.norm,
            like(tolerance.rtol, y), like(tolerance.atol, y), ends, self._on_device(np.array(start.budget)),
        )  # fmt: skip
        self.times = times
        ys = None if times is None else torch.full_like(y, torch.nan).expand(len(start.times) + 1, *y.shape)
        self.kept = None
        if keep:
            spans = torch.zeros(RECORD + 1, 2, dtype=torch.float64, device=y.device)
            self.kept = spans, y.new_zeros(RECORD + 1, *y.shape)
        reals, wholes = np.zeros((len(Real), *shape)), np.zeros((len(Whole), *shape), dtype=np.int64)
        reals[Real.T], reals[Real.WANTED], reals[Real.GONE] = start.t, start.wanted, np.nan
        reals[Real.LAST], reals[Real.BEFORE], reals[Real.SIZE] = (
            start.judged.last, start.judged.before, start.judged.size,
        )  # fmt: skip
        self.standing: tuple[Any, ...] = (self._on_device(reals), self._on_device(wholes), y, start.carry, ys)

    def _on_device(self, numbers: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(numbers, order="C")).to(self.start.y.device)

    def stretches(self) -> Iterator[Stretch] | None:
        """All steps; None if there is no graph, or not the right one."""
        if not self._works():
            return None
        found = self._go(_ENDLESS)
        return None if found is None else self._following(found)

    def _works(self) -> bool:
        graph, start = self.graph, self.start
        if graph.broken:
            return False
        if graph.calls is None or not graph.checked:
            step = self._by_hand(start.carry)
            graph.hands_on = step.carry is not None
        if not graph.hands_on:
            self._hand_over(None)
        elif start.carry is None:
            self._hand_over(self.f(time_of(start.t), start.y))
        if graph.calls is None:
            before = cost_of(self.f)
            self._by_hand(self.standing[3])
            graph.calls = since(before, self.f)
        if graph.checked:
            return True
        found = self._go(1)
        if found is None:
            return False
        accepted = np.asarray(on_host(found[1][Whole.ACCEPTED]) > 0)
        if not accepted.any():  # then there is nothing to compare yet
            return True
        mask = torch.from_numpy(accepted).reshape(*accepted.shape, *(1,) * (start.y.ndim - accepted.ndim))
        return graph.check(found[2], torch.where(mask.to(start.y.device), step.y1, start.y))

    def _hand_over(self, carry: Any) -> None:
        reals, wholes, y, _, ys = self.standing
        self.standing = reals, wholes, y, carry, ys

    def _by_hand(self, carry: Any) -> Step:
        """The first step, without the graph."""
        start = self.start
        far = np.abs(start.t_end - start.t) <= np.abs(start.wanted - start.t) * 1.01
        end = np.where(far, start.t_end, start.wanted)
        step = self.solver.step(self.f, time_of(start.t), time_of(end), start.y, carry)
        if self.times is not None:
            self.solver.densify(self.f, step)
        return step

    def _go(self, limit: int) -> Any:
        """Up to so many iterations; None if the graph cannot be made."""
        reals, wholes, y, carry, ys = self.standing
        most = torch.full((), limit, dtype=torch.int64, device=y.device)
        found = self.graph.run((*self.arguments, most, self.times, reals, wholes, y, carry, ys, self.kept))
        if found is None:
            return None
        rest = list(found)
        count = int(rest.pop(0))
        self.inlined.count(*(count * cost for cost in self.graph.calls or (0, 0)))
        return [*rest[:3], *(rest.pop(3) if isinstance(x, Tensor) else x for x in (carry, ys)), rest[3:]]

    def _following(self, found: Any) -> Iterator[Stretch]:
        """One stretch after the other, of which the first has been found, until all lanes have ended."""
        while True:
            reals, wholes, y, carry, ys, kept = found
            numbers, counts = on_host(reals), wholes.cpu().numpy()
            codes = np.atleast_1d(counts[Whole.CODE])
            filled = int(counts[Whole.FILLED]) if self.keep else 0
            yield Stretch(
                numbers[Real.T], y, numbers[Real.WANTED], [_STATUSES[int(code)] for code in codes],
                counts[Whole.STEPS], counts[Whole.ACCEPTED], counts[Whole.OUTPUT], ys,
                (on_host(kept[0])[:filled], kept[1][:filled]) if self.keep else None,
            )  # fmt: skip
            if (codes != GOING).all():
                return
            counts = wholes.clone()
            counts[Whole.FILLED] = 0
            self.standing = reals, counts, y, carry, ys
            with torch.no_grad():
                found = self._go(_ENDLESS)
