"""Initial value problems with known solutions, and what the numerics' tests measure with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from odekit.core.adams import Adams
from odekit.core.protocols import ODESolver
from odekit.core.reversible import ReversibleSolver
from odekit.core.runge_kutta import ExplicitRungeKutta
from odekit.registry import catalog

_STRUCTURES = {entry.name: entry.facts["structure"] for entry in catalog().entries("solver")}
SOLVERS = [name for name, structure in _STRUCTURES.items() if structure == "general"]
SEPARABLE = [name for name, structure in _STRUCTURES.items() if structure == "separable"]
GRADIENTS = ["direct", "checkpointed", "adjoint", "interpolated", "reversible"]
DOUBLE = torch.float64


class TimedNetwork(nn.Module):
    """A small network of time and state, the same one every time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2)).double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = 3 * self.net(y) * torch.cos(t)
        return out


def solver_class(name: str) -> type[ODESolver]:
    return catalog().get("solver", name)


ADAPTIVE = [name for name in SOLVERS if solver_class(name).error_order is not None]
CAUTIOUS = [name for name in ADAPTIVE if name != "fehlberg2"]
"""The solvers whose estimate is above the error of the step; Fehlberg's of order one has next to no error to show."""
IMPLICIT = [name for name in SOLVERS if hasattr(solver_class(name), "newton")]
IRREVERSIBLE = [
    name for name in _STRUCTURES if not issubclass(solver_class(name), ExplicitRungeKutta | ReversibleSolver)
]
EXPLICIT = [name for name in SOLVERS if not solver_class(name).implicit]
MULTISTEP = [name for name in SOLVERS if issubclass(solver_class(name), Adams)]


@attrs.frozen
class Reference:
    """dy/dt = f(t, y) whose solution is ``exact(t)``."""

    name: str
    f: Callable[[Tensor, Tensor], Tensor]
    exact: Callable[[float], Tensor]

    def __str__(self) -> str:
        return self.name


def _bent(t: Tensor, y: Tensor) -> Tensor:
    u, v = y.unbind(-1)
    return torch.stack([-(u - v**2) + 2 * v**2 * (1 - v), v * (1 - v)], -1)


def _bent_exact(t: float) -> Tensor:
    """A decay and a logistic curve, seen in bent coordinates in which they are coupled."""
    v = 1 / (1 + 3 * math.exp(-t))
    return torch.tensor([1.5 * math.exp(-t) + v**2, v], dtype=DOUBLE)


_OMEGA = 1.5


def _kpr(t: Tensor, y: Tensor) -> Tensor:
    u, v = y.unbind(-1)
    left = (u**2 - 2 - torch.cos(t)) / (2 * u)
    right = (v**2 - 2 - torch.cos(_OMEGA * t)) / (2 * v)
    du = -left + 0.5 * right - torch.sin(t) / (2 * u)
    dv = 0.5 * left - right - _OMEGA * torch.sin(_OMEGA * t) / (2 * v)
    return torch.stack([du, dv], -1)


def _kpr_exact(t: float) -> Tensor:
    """The Kværnø-Prothero-Robinson problem, coupled and driven by t."""
    return torch.tensor([math.sqrt(2 + math.cos(t)), math.sqrt(2 + math.cos(_OMEGA * t))], dtype=DOUBLE)


AUTONOMOUS = Reference("autonomous", _bent, _bent_exact)
TIMED = Reference("time-dependent", _kpr, _kpr_exact)


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -y


def close(found: Tensor, expected: Any, tol: float = 1e-5) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), rtol=tol, atol=tol)


class Counted:
    """``f``, and the times at which it was called."""

    def __init__(self, f: Callable[..., Any]) -> None:
        self.f = f
        self.times: list[float] = []

    def __call__(self, t: Tensor, y: Any, *args: Any) -> Any:
        self.times.append(float(t.detach()))
        return self.f(t, y, *args)

    @property
    def calls(self) -> int:
        return len(self.times)


def slope(sizes: Sequence[float], errors: Sequence[float]) -> float:
    """The exponent p of errors ~ size^p, by least squares."""
    x, y = torch.tensor(sizes, dtype=DOUBLE).log(), torch.tensor(errors, dtype=DOUBLE).log()
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x * x).sum())
