"""Step controls that torchdiffeq's options ask for."""

from __future__ import annotations

import math
from typing import Any

import attrs
import torch
from torch import Tensor

from odekit.core.control import PIDControl
from odekit.core.protocols import ODESolver, Proposal, Step, StepControl, VectorField, Verdict
from odekit.core.tolerance import Tolerance


@attrs.frozen
class Grid(StepControl):
    """Steps between given times, whatever they bring.

    Attributes:
        times: monotone, from one end of the span to the other.
    """

    times: tuple[float, ...]

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
        return Proposal(self._time(1, t1), 1, f0)

    def judge(self, step: Step, t0: float, t1: float, solver: ODESolver, tolerance: Tolerance, carry: Any) -> Verdict:
        if not step.status.ok:
            return Verdict(False, None, carry, step.status)
        return Verdict(True, self._time(carry + 1, t1), carry + 1)

    def _time(self, n: int, end: float) -> float:
        return self.times[n] if n < len(self.times) else end


@attrs.frozen
class FlooredControl(PIDControl):
    """PID control that takes a step as short as ``dt_min`` for good, whatever its error."""

    def judge(self, step: Step, t0: float, t1: float, solver: ODESolver, tolerance: Tolerance, carry: Any) -> Verdict:
        verdict = super().judge(step, t0, t1, solver, tolerance, carry)
        if verdict.accept or (not verdict.status.ok and verdict.t_next is not None):
            return verdict
        least = math.copysign(self.dt_min, t1 - t0)
        if abs(t1 - t0) <= self.dt_min * (1 + 1e-9):
            return Verdict(True, t1 + least, carry)
        if verdict.t_next is None or abs(verdict.t_next - t0) < self.dt_min:
            return Verdict(False, t0 + least, carry)
        return verdict


def step_grid(t0: Tensor, t1: Tensor, step_size: float) -> Tensor:
    """Times ``step_size`` apart from ``t0`` to ``t1``, the last interval being what is left.

    A millionth of the span is no interval of its own: it comes from times in single precision.
    """
    span = float(t1.detach() - t0.detach())
    count = max(1, math.ceil(abs(span) / step_size * (1 - 1e-6)))
    distances = torch.arange(count, dtype=t0.dtype, device=t0.device) * math.copysign(step_size, span)
    return torch.cat([t0 + distances, t1.reshape(1)])
