"""`make bench`: what a solve costs beside the bare calls of f, and beside torchdiffeq where that is installed.

A small tanh network, 256 states of dimension two, dopri5 at 1e-6 in float32: the work in which overhead shows most. All
competitors run in one process, interleaved, on one thread; medians and the ratio to the bare calls are printed.
"""

from __future__ import annotations

import functools
import importlib.util
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import odekit

ROUNDS = 30
TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}


class Field(nn.Module):
    """3 · MLP(2-64-64-2), counting its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
        self.calls = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return 3 * self.net(y)


def competitors(f: Field, y0: Tensor, t: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Ways to the same end, by name; each gives y(t1)."""
    found: dict[str, Callable[[], Tensor]] = {
        f"odekit {gradient}": lambda gradient=gradient: odekit.solve(f, y0, t, gradient=gradient, **TOLERANCE).y1
        for gradient in ("direct", "checkpointed", "adjoint")
    }
    if importlib.util.find_spec("torchdiffeq"):
        import torchdiffeq

        options = {**TOLERANCE, "method": "dopri5"}
        found["torchdiffeq odeint"] = lambda: torchdiffeq.odeint(f, y0, t, **options)[-1]
        found["torchdiffeq odeint_adjoint"] = lambda: torchdiffeq.odeint_adjoint(f, y0, t, **options)[-1]
    return found


def forward(call: Callable[[], Tensor]) -> None:
    with torch.no_grad():
        call()


def training_step(call: Callable[[], Tensor]) -> None:
    call().square().sum().backward()


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    f, y0, t = Field(), torch.randn(256, 2), torch.tensor([0.0, 1.0])
    ways = competitors(f, y0, t)
    with torch.no_grad():
        f.double()
        reference = odekit.solve(f, y0.double(), t.double(), rtol=1e-11, atol=1e-11).y1
        f.float()
    for title, run in (("forward", forward), ("forward and backward", training_step)):
        print(f"\n{title}\n{'':28} {'nfe':>5} {'error':>9} {'ms':>8} {'× bare f':>9}")
        times: dict[str, list[float]] = {name: [] for name in ways}
        bare: dict[str, list[float]] = {name: [] for name in ways}
        calls, errors = {}, {}
        for name, call in ways.items():
            f.calls = 0
            errors[name] = float((call().detach() - reference).abs().max())
            calls[name] = f.calls
        for _ in range(ROUNDS):
            for name, call in ways.items():
                times[name].append(_timed(run, call))
                bare[name].append(_timed(run, functools.partial(_repeated, f, y0, calls[name])))
        for name in ways:
            median = statistics.median(times[name])
            ratio = median / statistics.median(bare[name])
            print(f"{name:28} {calls[name]:5} {errors[name]:9.1e} {median * 1e3:8.2f} {ratio:9.2f}")


def _repeated(f: Field, y: Tensor, calls: int) -> Tensor:
    """The bare calls of f, chained so that a backward pass goes through every one of them."""
    for _ in range(calls):
        y = f(torch.zeros(()), y)
    return y


def _timed(run: Callable[[Callable[[], Tensor]], None], call: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    run(call)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
