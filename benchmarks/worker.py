"""A process that holds one workload in the hands of one competitor, and runs it when it is told to.

Started by :mod:`benchmarks.contest`. Reads and answers one JSON object a line:

    {"do": "prepare", "competitor": ..., "case": ..., "device": ..., "calls": [n, m], "core": k, "answer": path}
        -> {"first": seconds, "second": seconds, "calls": [n, m], "peak": bytes, "versions": {...}}
    {"do": "time", "passes": n, "clock": "wall" or "cpu"} -> {"seconds": [n numbers]}
    {"do": "stop"}

What cannot be done is answered by {"unfit": why} or {"failed": what}. Whatever a library prints goes to stderr.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from benchmarks import machine
from benchmarks.competitors import IN_JAX, MODULES, Unfit
from benchmarks.competitors.runner import Runner

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
"""What happened meanwhile on the wall, or what this process computed: the same on a machine that does nothing else."""


class Worker:
    """The state of the process: what it has prepared."""

    runner: Runner

    def prepare(
        self, competitor: str, case: str, device: str, calls: list[int], core: int | None, answer: str
    ) -> dict[str, Any]:
        machine.pin(core)
        if competitor not in IN_JAX:
            machine.one_torch_thread()
        module = importlib.import_module(MODULES[competitor])
        self.runner = module.prepare(case, device, (calls[0], calls[1]))
        first = timed(self.runner.once)
        second = timed(self.runner.once)
        machine.forget_peak()
        before = machine.peak(device)
        counted = self.runner.answer(Path(answer))
        peak = machine.peak(device) - before
        return {
            "first": first, "second": second, "calls": counted, "peak": peak, "versions": self.runner.versions,
        }  # fmt: skip

    def time(self, passes: int, clock: str) -> dict[str, Any]:
        gc.collect()
        return {"seconds": [timed(self.runner.once, CLOCKS[clock]) for _ in range(passes)]}


def timed(run: Callable[[], None], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    run()
    return clock() - start


def serve(commands: TextIO, answers: TextIO) -> None:
    """Until told to stop, or until there is nobody left to tell."""
    worker = Worker()
    doing: dict[str, Callable[..., dict[str, Any]]] = {"prepare": worker.prepare, "time": worker.time}
    for line in commands:
        command = json.loads(line)
        do = command.pop("do")
        if do == "stop":
            return
        try:
            answer = doing[do](**command)
        except Unfit as why:
            answer = {"unfit": str(why)}
        except ModuleNotFoundError as missing:
            answer = {"unfit": f"{missing.name} is not installed"}
        except Exception as error:  # a competitor may fail in any way of its own
            answer = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
