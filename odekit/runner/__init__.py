"""One experiment in the order it happens: spec, device, data, model, training, report.

>>> from odekit.runner import Spec, run
>>> run(Spec(model="ffjord", data="pinwheel"), "runs/first")  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from odekit.runner.experiment import Sitting, resume, run
    from odekit.runner.result import Result
    from odekit.runner.spec import Choice, Evaluate, Optimizer, Schedule, SolverChoice, Spec, Train
    from odekit.runner.watch import Stop

_HOMES = {
    "run": "odekit.runner.experiment",
    "resume": "odekit.runner.experiment",
    "Sitting": "odekit.runner.experiment",
    "Result": "odekit.runner.result",
    "Stop": "odekit.runner.watch",
    **dict.fromkeys(
        ("Choice", "Evaluate", "Optimizer", "Schedule", "SolverChoice", "Spec", "Train"), "odekit.runner.spec"
    ),
}

__all__ = [
    "Choice", "Evaluate", "Optimizer", "Result", "Schedule", "Sitting", "SolverChoice", "Spec", "Stop", "Train",
    "resume", "run",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'odekit.runner' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
