"""A solver whose loop over adaptive steps runs as one compiled graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from odekit.core import lanes
from odekit.core.compiled import CompiledStep, graph_of, inlined_of, lacks_expansion
from odekit.core.control import FixedStep, PIDControl
from odekit.core.graph_field import Inlined
from odekit.core.graph_loop import looped
from odekit.core.graph_repeat import repeated
from odekit.core.graph_run import RECORD, Run, cost_of, since, time_of
from odekit.core.looping import LoopingSolver, Start, Stretch
from odekit.core.protocols import StepControl
from odekit.core.solution import Status
from odekit.core.tolerance import Tolerance

_MOST_BYTES = 16 * 2**20
"""What outputs and a record may take within a loop, which copies them in every iteration."""


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
            slope = carry if isinstance(carry, Tensor) else f(time_of(start.t), y)
            if y.requires_grad or slope.requires_grad:
                return None
        inlined = inlined_of(f)
        if inlined is None or not inlined.loops or lacks_expansion(inlined, self.solver):
            return None
        if isinstance(control, FixedStep):
            return self._repeated(f, inlined, start, control)
        assert isinstance(control, PIDControl)
        kind = "loop", start.t.ndim, len(start.times) > 1, keep, attrs.evolve(control, first_step=None)
        options = {"cpp_wrapper": True} if self.backend == "inductor" else None
        graph = graph_of(looped, inlined.owner, self.solver, self.backend, kind, False, y, options)
        with torch.no_grad():
            return Run(graph, self.solver, f, inlined, start, control, tolerance, keep).stretches()

    def _fits(self, start: Start, control: StepControl, keep: bool) -> bool:
        """Whether a loop does what is asked for, whatever f is."""
        y, carry, outputs = start.y, start.carry, len(start.times) > 1
        if lanes.transformed() or y.device.type == "mps":  # MPS has no float64
            return False
        if type(control) is FixedStep:
            single = start.t.ndim == 0 and not (keep or outputs)
            return single and self.solver.memoryless and control.count(*_ends(start)) <= int(start.budget)
        states = (len(start.times) if outputs else 0) + (RECORD if keep else 0)
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
                before = cost_of(f)
                step = self.solver.advance(f, t, t_end if count == 1 else t + (t_end - t) / count, y, None)
                graph.calls = since(before, f)
                found = run(1)
                if found is None or not graph.check(found[1], step.y1):
                    return None
            found = run(count)
        if found is None:
            return None
        inlined.count(*(count * cost for cost in graph.calls or (0, 0)))
        steps = np.array(count)
        done = Stretch(start.t_end, found[1], start.t_end, [Status.SUCCESS], steps, steps, np.array(1), None, None)
        return iter([done])


def _ends(start: Start) -> tuple[float, float]:
    return float(start.t), float(start.t_end)
