"""How long forward and backward take next to `direct`, interleaved in one process on one thread."""

from __future__ import annotations

import functools
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import odekit
from benchmarks.gradients.methods import METHODS, stepping
from odekit.gradients import Direct

ROUNDS = 15

AS_MANY = "torchdiffeq odeint_adjoint, half the step"
"""It calls f on the way forward as often as `reversible` with the whole step."""

Pass = Callable[[], Tensor]


class Network(nn.Module):
    """3 · MLP(2-64-64-2), of the state alone."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = 3 * self.net(y)
        return out


WORKS: dict[str, dict[str, Any]] = {
    "adaptive: dopri5 at 1e-6, 256 states": {"rows": 256, "steps": 10, "rtol": 1e-6, "atol": 1e-6},
    "200 fixed steps of rk4, 64 states": {"rows": 64, "steps": 200, "step_size": 5e-3},
}


def end(f: Network, y0: Tensor, t: Tensor, **options: Any) -> Tensor:
    """The state at the end."""
    last: Tensor = odekit.solve(f, y0, t, **options).y1
    return last


def passes(rows: int, steps: int, **options: Any) -> dict[str, tuple[Pass, Pass]]:
    """Forward passes by method, each with that of `direct` through the same steps."""
    torch.manual_seed(0)
    f, y0, t = Network(), torch.randn(rows, 2), torch.tensor([0.0, 1.0])
    usual = "rk4" if "step_size" in options else "dopri5"
    found: dict[str, tuple[Pass, Pass]] = {}
    for label, entry in METHODS.items():
        if label == "forward":  # for few parameters; this network has thousands
            continue
        solver, method = entry.solver or usual, entry.make(steps)
        same = stepping(method, solver)

        found[label] = (
            functools.partial(end, f, y0, t, solver=solver, gradient=method, **options),
            functools.partial(end, f, y0, t, solver=same, gradient=Direct(), **options),
        )
    if importlib.util.find_spec("torchdiffeq"):
        import torchdiffeq

        given = {"rtol": options["rtol"], "atol": options["atol"]} if "rtol" in options else {}

        def theirs(**extra: Any) -> Tensor:
            return torchdiffeq.odeint_adjoint(f, y0, t, method=usual, **given, **extra)[-1]

        fixed = options.get("step_size")
        whole, half = ({"options": {"step_size": fixed / k}} if fixed else {} for k in (1, 2))
        found["torchdiffeq odeint_adjoint"] = functools.partial(theirs, **whole), found["direct"][0]
        if fixed:
            found[AS_MANY] = functools.partial(theirs, **half), found["reversible"][1]
    return found


def seconds(run: Pass) -> float:
    """Of forward and backward."""
    start = time.process_time()
    run().square().sum().backward()
    return time.process_time() - start


def times() -> dict[str, dict[str, tuple[float, float, float]]]:
    """By work and method: median seconds, the ratio to `direct` through the same steps, and to plain `direct`."""
    torch.set_num_threads(1)
    found: dict[str, dict[str, tuple[float, float, float]]] = {}
    for work, options in WORKS.items():
        ways = passes(**options)
        taken: dict[str, list[tuple[float, float]]] = {label: [] for label in ways}
        for _ in range(ROUNDS):
            for label, (run, direct) in ways.items():
                taken[label].append((seconds(run), seconds(direct)))
        plain = statistics.median(own for own, _ in taken["direct"])
        found[work] = {}
        for label, pairs in taken.items():
            median = statistics.median(own for own, _ in pairs)
            found[work][label] = median, median / statistics.median(direct for _, direct in pairs), median / plain
            print(work, label, [round(x, 4) for x in found[work][label]], flush=True)
    return found
