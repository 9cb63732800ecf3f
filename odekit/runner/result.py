"""What a run comes to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs

from odekit.runner.folder import finite
from odekit.runner.watch import Stop


@attrs.frozen
class Result:
    """The end of a run.

    Attributes:
        folder: where everything is.
        stop: why training ended.
        step, total: steps done, and steps that the spec asks for.
        test: metrics on the test part; empty if a signal stopped the run.
        parameters: how many the model has.
        weights: whether they are those of the ``"last"`` step or of the ``"best"`` evaluation.
        weights_step: the step after which they are taken.
        nfe_forward, nfe_backward: mean calls of the dynamics in a training step.
        picked: the gradient methods that a rule picked in training, each with its first reason; empty without a rule.
        seconds: wall time over all sittings.
        peak_memory_mib: of the CUDA device, or else of the first process.
    """

    folder: Path
    stop: Stop
    step: int
    total: int
    test: dict[str, float]
    parameters: int
    weights: str
    weights_step: int
    nfe_forward: float
    nfe_backward: float
    picked: dict[str, str]
    seconds: float
    peak_memory_mib: float
    device: str
    processes: int
    threads: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        plain = attrs.asdict(self, recurse=False)
        return finite({**plain, "folder": str(self.folder), "stop": str(self.stop)})
