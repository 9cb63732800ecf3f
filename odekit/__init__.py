"""odekit: differential equations inside PyTorch models, every piece exchangeable by name.

The public names are loaded on first use, so that ``import odekit`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from odekit import errors
    from odekit.core.callbacks import Callbacks
    from odekit.core.control import FixedStep, PIDControl, PredictiveControl
    from odekit.core.doubling import Doubling
    from odekit.core.events import Event
    from odekit.core.reversible_pair import Reversible
    from odekit.core.solution import EventLog, Solution, Stats, Status
    from odekit.core.steady import steady_state
    from odekit.neural_ode import NeuralODE
    from odekit.registry.current import load_plugin, register, unload_plugin, unregister
    from odekit.registry.hooks import hookimpl
    from odekit.solving import solve, solver_named, trace_named

__version__ = "0.1.0"

_HOMES = {
    "solve": "odekit.solving",
    "solver_named": "odekit.solving",
    "trace_named": "odekit.solving",
    "NeuralODE": "odekit.neural_ode",
    "Solution": "odekit.core.solution",
    "EventLog": "odekit.core.solution",
    "Stats": "odekit.core.solution",
    "Status": "odekit.core.solution",
    "FixedStep": "odekit.core.control",
    "PIDControl": "odekit.core.control",
    "PredictiveControl": "odekit.core.control",
    "Doubling": "odekit.core.doubling",
    "Reversible": "odekit.core.reversible_pair",
    "Event": "odekit.core.events",
    "steady_state": "odekit.core.steady",
    "Callbacks": "odekit.core.callbacks",
    "hookimpl": "odekit.registry.hooks",
    **dict.fromkeys(("load_plugin", "register", "unload_plugin", "unregister"), "odekit.registry.current"),
}

__all__ = [
    "Callbacks", "Doubling", "Event", "EventLog", "FixedStep", "NeuralODE", "PIDControl", "PredictiveControl",
    "Reversible", "Solution", "Stats", "Status", "errors", "hookimpl", "load_plugin", "register", "solve",
    "solver_named", "steady_state", "trace_named", "unload_plugin", "unregister",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("odekit.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'odekit' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
