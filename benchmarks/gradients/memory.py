"""Peak memory of forward and backward against the number of steps, each in a process of its own.

    python -m benchmarks.gradients.memory METHOD STEPS

prints the bytes above what was resident before the solve: of the device if there is one, else of the process.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import torch
from torch import Tensor

import odekit
from benchmarks.gradients.methods import METHODS

SHAPE = (64, 256)
STATE = 64 * 256 * 4
"""Bytes of one state."""
PAGES = {"MALLOC_MMAP_THRESHOLD_": "32768"}
"""Has glibc give pages of its own to every tensor of that many bytes or more, and take them back when it is freed."""
COUNTS = (10, 100, 1000, 10_000)
LARGEST = {"direct": 1000, "forward": 0}
"""Beyond these numbers of steps a method is left out: it would need all memory, or is for few parameters only."""


def damped(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
    return torch.sin(rate * y) - y


def solve(method: str, steps: int) -> None:
    """Forward and backward through fixed steps of rk4, or of the solver that the method is shown with."""
    entry = METHODS[method]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    y0 = torch.linspace(-1, 1, SHAPE[0] * SHAPE[1], device=device).reshape(SHAPE).requires_grad_()
    rate = torch.full((SHAPE[1],), 1.3, device=device, requires_grad=True)
    solution = odekit.solve(
        damped, y0, [0.0, 1.0], args=(rate,), solver=entry.solver or "rk4", step_size=1 / steps, dense=False,
        gradient=entry.make(steps),
    )  # fmt: skip
    solution.y1.square().sum().backward()


def resident() -> int:
    """The most memory that this process has had so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(method: str, steps: int) -> int:
    """Bytes above the start, in this process, which must be fresh."""
    torch.set_num_threads(1)
    solve(method, 3)  # what is imported and set up once does not count
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        solve(method, steps)
        return torch.cuda.max_memory_allocated() - before
    before = resident()
    solve(method, steps)
    return resident() - before


def measured(method: str, steps: int) -> int:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.gradients.memory", method, str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **PAGES})
    return int(done.stdout.split()[-1])


def peaks() -> dict[str, dict[int, int]]:
    """Bytes by method and number of steps."""
    found: dict[str, dict[int, int]] = {}
    for method in METHODS:
        counts = [steps for steps in COUNTS if steps <= LARGEST.get(method, COUNTS[-1])]
        if counts:
            found[method] = {steps: measured(method, steps) for steps in counts}
            print(method, found[method], flush=True)
    return found


def slope(by_steps: dict[int, int]) -> float:
    """States per step, between the two largest numbers of steps."""
    (few, low), (many, high) = sorted(by_steps.items())[-2:]
    return (high - low) / (many - few) / STATE


if __name__ == "__main__":
    print(measure(sys.argv[1], int(sys.argv[2])))
