"""A step control for solvers that step by themselves: all that is left is one step."""

from __future__ import annotations

from typing import Any

import attrs
from torch import Tensor

from odekit.core.protocols import ODESolver, Proposal, Step, StepControl, VectorField, Verdict
from odekit.core.tolerance import Tolerance


@attrs.frozen
class Whole(StepControl):
    """Proposes the rest of the span as one step, and takes what comes."""

    adaptive = True

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
        return Proposal(t1, carry=t1, f0=f0)

    def judge(self, step: Step, t0: float, t1: float, solver: ODESolver, tolerance: Tolerance, carry: Any) -> Verdict:
        if not step.status.ok:
            return Verdict(False, None, carry, step.status)
        return Verdict(True, carry, carry)
