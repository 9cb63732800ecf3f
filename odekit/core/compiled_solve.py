"""A solver whose loop over adaptive steps runs as one compiled graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from odekit.core import lanes
from odekit.core.compiled import CompiledStep, Graph, graph_of, inlined_of, like
from odekit.core.control import FixedStep, PIDControl
from odekit.core.graph_field import Inlined
from odekit.core.graph_loop import DONE, GOING, MAX_STEPS, NON_FINITE, UNDERFLOW, WINDOW, Real, Whole, looped
from odekit.core.graph_repeat import repeated
from odekit.core.looping import LoopingSolver, Start, Stretch
from odekit.core.protocols import ODESolver, Step, StepControl
from odekit.core.solution import Status
from odekit.core.times import RowTimes, Time, on_host
from odekit.core.tolerance import Tolerance

_STATUSES = {
    GOING: None, DONE: Status.SUCCESS, MAX_STEPS: Status.MAX_STEPS, UNDERFLOW: Status.STEP_UNDERFLOW,
    NON_FINITE: Status.NON_FINITE,
}  # fmt: skip

_RECORD = 32
"""Accepted steps that gather within the graph before the host takes them."""
_MOST_BYTES = 16 * 2**20
"""What outputs and a record may take within a loop, which copies them in every iteration."""
_ENDLESS = 2**62


@attrs.frozen(eq=False)
class CompiledSolve(CompiledStep, LoopingSolver):
    """Another solver, whose steps and the decisions between them are one graph with a loop in it.

    It runs from the first time to the last without coming back to the host, or, where every step is to be told of,
    for as many steps as gather in a record. That is for steps that adapt by I, PI or PID control, for equal steps of
    which the end alone is wanted, and where no gradient flows through them; elsewhere it is
    :class:`~odekit.core.compiled.CompiledStep`. The steps are those that the host would take, to rounding. The loop is
    PyTorch's ``while_loop``, and with inductor the host's part of it is C++.

    The first solve of a kind takes its first step without it too, and compares.
    """

    def loop(
        self, f: Any, start: Start, control: StepControl, tolerance: Tolerance, keep: bool
    ) -> Iterator[Stretch] | None:
        y, carry = start.y, start.carry
        if not self._fits(start, control, keep):
            return None
        if torch.is_grad_enabled():
            slope = carry if isinstance(carry, Tensor) else f(_time(start.t), y)
            if y.requires_grad or slope.requires_grad:
                return None
        inlined = inlined_of(f)
        if inlined is None or not inlined.loops:
            return None
        if isinstance(control, FixedStep):
            return self._repeated(f, inlined, start, control)
        assert isinstance(control, PIDControl)
        kind = "loop", start.t.ndim, len(start.times) > 1, keep, attrs.evolve(control, first_step=None)
        options = {"cpp_wrapper": True} if self.backend == "inductor" else None
        graph = graph_of(looped, inlined.owner, self.solver, self.backend, kind, False, y, options)
        with torch.no_grad():
            run = _Run(graph, self.solver, f, inlined, start, control, tolerance, keep)
            return run.stretches() if run.works() else None

    def _fits(self, start: Start, control: StepControl, keep: bool) -> bool:
        """Whether a loop does what is asked for, whatever f is."""
        y, carry, outputs = start.y, start.carry, len(start.times) > 1
        if lanes.transformed() or y.device.type == "mps":  # MPS has no float64
            return False
        if type(control) is FixedStep:
            single = start.t.ndim == 0 and not (keep or outputs)
            return single and self.solver.memoryless and control.count(*_ends(start)) <= int(start.budget)
        states = (len(start.times) if outputs else 0) + (_RECORD if keep else 0)
        if type(control) is not PIDControl or states * y.numel() * y.element_size() > _MOST_BYTES:
            return False
        return isinstance(carry, bool) or (self.solver.memoryless and isinstance(carry, Tensor | None))

    def _repeated(self, f: Any, inlined: Inlined, start: Start, control: FixedStep) -> Iterator[Stretch] | None:
        """The same for equal steps, of which nobody wants to know but the last."""
        (t, t_end), y = _ends(start), start.y
        count = control.count(t, t_end)
        options = {"cpp_wrapper": True} if self.backend == "inductor" else None
        graph = graph_of(repeated, inlined.owner, self.solver, self.backend, "repeat", False, y, options)
        if graph.broken:
            return None
        ends = torch.tensor([t, t_end, *inlined.bounds], dtype=torch.float64, device=y.device)

        def run(last: int) -> Any:
            numbers = torch.tensor([last, count], dtype=torch.float64, device=y.device)
            return graph.run(
                (self.solver, inlined.call, inlined.args, inlined.layout, inlined.expand, ends, numbers, y)
            )

        with torch.no_grad():
            if graph.calls is None or not graph.checked:
                before = _cost(f)
                step = self.solver.advance(f, t, t_end if count == 1 else t + (t_end - t) / count, y, None)
                graph.calls = _since(before, f)
                found = run(1)
                if found is None or not graph.check(found[1], step.y1):
                    return None
            _, y1 = run(count)
        inlined.count(*(count * cost for cost in graph.calls or (0, 0)))
        steps = np.array(count)
        done = Stretch(start.t_end, y1, start.t_end, [Status.SUCCESS], steps, steps, np.array(1), None, None)
        return iter([done])


def _ends(start: Start) -> tuple[float, float]:
    return float(start.t), float(start.t_end)


def _time(t: np.ndarray) -> Time:
    return RowTimes(t) if t.ndim else float(t)


def _cost(f: Any) -> tuple[int, int]:
    """Calls of f, and Jacobians of it, so far."""
    return f.nfe, f.jacobians


def _since(before: tuple[int, int], f: Any) -> tuple[int, int]:
    return f.nfe - before[0], f.jacobians - before[1]


class _Run:
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
            spans = torch.zeros(_RECORD + 1, 2, dtype=torch.float64, device=y.device)
            self.kept = spans, y.new_zeros(_RECORD + 1, *y.shape)
        reals, wholes = np.zeros((len(Real), *shape)), np.zeros((len(Whole), *shape), dtype=np.int64)
        reals[Real.T], reals[Real.WANTED], reals[Real.GONE] = start.t, start.wanted, np.nan
        reals[Real.LAST], reals[Real.BEFORE], reals[Real.SIZE] = (
            start.judged.last, start.judged.before, start.judged.size,
        )  # fmt: skip
        self.standing: tuple[Any, ...] = (self._on_device(reals), self._on_device(wholes), y, start.carry, ys)

    def _on_device(self, numbers: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(numbers, order="C")).to(self.start.y.device)

    def works(self) -> bool:
        """Whether there is a graph, and the right one."""
        graph, start = self.graph, self.start
        if graph.broken:
            return False
        if graph.calls is None or not graph.checked:
            step = self._by_hand(start.carry)
            graph.hands_on = step.carry is not None
        if not graph.hands_on:
            self._hand_over(None)
        elif start.carry is None:
            self._hand_over(self.f(_time(start.t), start.y))
        if graph.calls is None:
            before = _cost(self.f)
            self._by_hand(self.standing[3])
            graph.calls = _since(before, self.f)
        if graph.checked:
            return True
        found = self._go(1)
        if found is None:
            return False
        accepted = np.asarray(on_host(found[1][Whole.ACCEPTED]) > 0)
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
        step = self.solver.step(self.f, _time(start.t), _time(end), start.y, carry)
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

    def stretches(self) -> Iterator[Stretch]:
        """Until all lanes have ended."""
        steps = accepted = None
        while True:
            with torch.no_grad():
                found = self._go(_ENDLESS)
            if found is None:
                raise RuntimeError("a graph that has run before does not run any more")
            reals, wholes, y, carry, ys, kept = found
            numbers, counts = on_host(reals), wholes.cpu().numpy()
            codes = np.atleast_1d(counts[Whole.CODE])
            filled = int(counts[Whole.FILLED]) if self.keep else 0
            steps, accepted = counts[Whole.STEPS], counts[Whole.ACCEPTED]
            yield Stretch(
                numbers[Real.T], y, numbers[Real.WANTED], [_STATUSES[int(code)] for code in codes], steps, accepted,
                counts[Whole.OUTPUT], ys, (on_host(kept[0])[:filled], kept[1][:filled]) if self.keep else None,
            )  # fmt: skip
            if (codes != GOING).all():
                return
            counts = wholes.clone()
            counts[Whole.FILLED] = 0
            self.standing = reals, counts, y, carry, ys
