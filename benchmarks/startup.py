"""How long it takes to start: imports and `odekit list`, next to `import torch`, in turns."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks import machine
from benchmarks.tables import ratio, table

COMMANDS = {
    "import torch": "import torch",
    "import odekit": "import odekit",
    "import odekit, and odekit.solve": "import odekit; odekit.solve",
    "odekit list": "import sys; sys.argv[1:] = ['list']; from odekit.cli.main import main; main()",
}


def _children() -> float:
    """Processor time of all processes that were started from here and have ended."""
    times = os.times()
    return times.children_user + times.children_system


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": _children}


def seconds(code: str, clock: str) -> float:
    """Of a fresh Python that runs this."""
    start = CLOCKS[clock]()
    subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, env={**os.environ, **machine.ONE_THREAD}
    )
    return CLOCKS[clock]() - start


def measured(rounds: int, clock: str) -> dict[str, list[float]]:
    """Seconds by command, after one round that warms the file system's cache."""
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for k in range(rounds + 1):
        for name, code in COMMANDS.items():
            taken = seconds(code, clock)
            if k:
                found[name].append(taken)
    return found


def told(found: dict[str, list[float]]) -> str:
    """The times, and how they compare with `import torch`."""
    torch = found["import torch"]
    rows = []
    for name, times in found.items():
        median = statistics.median(times)
        more = median - statistics.median(torch)
        rows.append([f"`{name}`", f"{median:.2f} s", str(ratio(times, torch)), f"{more:+.2f} s"])
    return table(["", "median", "× `import torch`", "beyond it"], rows)
