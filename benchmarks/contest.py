"""Competitors side by side on one workload: each in a process of its own, taking turns A B C A B C on one core."""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from benchmarks import machine
from benchmarks.competitors import IN_JAX, Unfit
from benchmarks.in_jax_environment import interpreter
from benchmarks.reference import reference, relative_error
from benchmarks.workloads import CASES, IN_MEMORY

ROOT = Path(__file__).parents[1]
GIVING_BACK = {"MALLOC_MMAP_THRESHOLD_": "32768"}
"""Has glibc give freed tensors back at once, so that a peak is that of the pass."""


@attrs.frozen
class Pace:
    """How long to measure.

    Attributes:
        rounds: how many; no more than three once they have taken ``enough`` seconds.
        seconds: about as long a competitor computes in each.
        clock: ``"wall"``, or ``"cpu"`` on a machine that is shared.
    """

    rounds: int
    seconds: float
    enough: float
    clock: str = "wall"
    most_passes: int = 1000

    def passes(self, one: float) -> int:
        return max(1, min(self.most_passes, math.floor(self.seconds / one)))


FEWEST = 3
FULL = Pace(rounds=15, seconds=0.5, enough=600.0)
QUICK = Pace(rounds=5, seconds=0.15, enough=30.0)


@attrs.frozen
class Entry:
    """What one competitor came to on one workload.

    Attributes:
        first, warm: seconds of the first pass, with all that is set up and compiled then, and of the second.
        nfe, nfe_backward: calls of f by the forward solve and by the backward pass.
        error: relative to the largest entry of the reference; NaN if there is no answer to compare.
        peak: bytes that a pass took at most, above what there was before it.
        rounds: the median seconds of a pass, by round.
        note: why it did not take part, and nothing of the above counts.
    """

    competitor: str
    first: float = math.nan
    warm: float = math.nan
    nfe: int = 0
    nfe_backward: int = 0
    error: float = math.nan
    peak: int = 0
    rounds: tuple[float, ...] = ()
    versions: Mapping[str, str] = attrs.field(factory=dict)
    note: str = ""


class Process:
    """A worker, and the pipe to it."""

    def __init__(self, competitor: str, case: str) -> None:
        python = interpreter() if competitor in IN_JAX else sys.executable
        environment = {**os.environ, **machine.ONE_THREAD, **machine.JAX_ON_ONE_THREAD}
        environment |= GIVING_BACK if case in IN_MEMORY else {}
        self.popen = subprocess.Popen(
            [python, "-W", "ignore", "-m", "benchmarks.worker"],
            cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def ask(self, do: str, **command: Any) -> dict[str, Any]:
        """The worker's answer.

        Raises:
            Unfit: it says that it cannot do that, it failed, or it is gone.
        """
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        try:
            print(json.dumps({"do": do, **command}), file=self.popen.stdin, flush=True)
            line = self.popen.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Unfit(f"its process ended with code {self.popen.wait()}")
        answer: dict[str, Any] = json.loads(line)
        for trouble in ("unfit", "failed"):
            if trouble in answer:
                raise Unfit(f"failed: {answer[trouble]}" if trouble == "failed" else answer[trouble])
        return answer

    def close(self) -> None:
        """Have it end, by force if it does not listen."""
        try:
            self.popen.communicate('{"do": "stop"}\n', timeout=10)
        except (subprocess.TimeoutExpired, OSError):
            self.popen.kill()
            self.popen.wait()
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        for pipe in (self.popen.stdin, self.popen.stdout):
            with contextlib.suppress(OSError):
                pipe.close()


def contest(case: str, competitors: Sequence[str], pace: Pace, device: str = "cpu") -> list[Entry]:
    """All competitors on one case, in turns; the first one's calls of f are those of the limit."""
    running: dict[str, tuple[Process, int]] = {}
    entries: dict[str, Entry] = {}
    with tempfile.TemporaryDirectory() as folder:
        expected = reference(CASES[case]())
        exported = Path(folder) / "work.npz"
        calls = [0, 0]
        for name in competitors:
            answer = Path(folder) / f"{name}.npy"
            try:
                if name in IN_JAX:
                    _export(case, exported)
                process = Process(name, case)
                try:
                    made = process.ask(
                        "prepare", competitor=name, case=str(exported) if name in IN_JAX else case, device=device,
                        calls=calls, core=machine.last_core(), answer=str(answer),
                    )  # fmt: skip
                except Unfit:
                    process.close()
                    raise
            except Unfit as why:
                entries[name] = Entry(name, note=str(why))
                continue
            if not any(calls):
                calls = made["calls"]
            running[name] = process, pace.passes(made["second"])
            entries[name] = Entry(
                name, first=made["first"], warm=made["second"], nfe=made["calls"][0], nfe_backward=made["calls"][1],
                error=_error(answer, expected), peak=made["peak"], versions=made["versions"],
            )  # fmt: skip
        try:
            times = _in_turns(running, pace)
        finally:
            for process, _ in running.values():
                process.close()
    return [attrs.evolve(entries[name], rounds=times.get(name, ())) for name in competitors]


def _in_turns(running: Mapping[str, tuple[Process, int]], pace: Pace) -> dict[str, tuple[float, ...]]:
    """The median seconds of a pass by competitor and round."""
    times: dict[str, list[float]] = {name: [] for name in running}
    start = time.perf_counter()
    for k in range(pace.rounds):
        if k >= FEWEST and time.perf_counter() - start > pace.enough:
            break
        for name, (process, passes) in running.items():
            times[name].append(statistics.median(process.ask("time", passes=passes, clock=pace.clock)["seconds"]))
    return {name: tuple(found) for name, found in times.items()}


def _error(answer: Path, expected: Tensor) -> float:
    return relative_error(torch.from_numpy(np.load(answer)), expected) if answer.exists() else math.nan


def _export(case: str, to: Path) -> None:
    """The workload as arrays, for a process without PyTorch.

    Raises:
        Unfit: it has parts that are written in PyTorch alone.
    """
    work = CASES[case]()
    if list(work.stem.parameters()) or list(work.loss.parameters()) or work.t.ndim == 2:
        raise Unfit("this training step is written in PyTorch alone")
    arrays = {f"f.{name}": value.detach().numpy() for name, value in work.f.state_dict().items()}
    arrays |= {f"args.{k}": value.numpy() for k, value in enumerate(work.args)}
    order = [f"f.{name}" for name, _ in work.f.named_parameters()]
    told = {
        "field": type(work.f).__name__, "loss": type(work.loss).__name__, "solver": work.solver, "rtol": work.rtol,
        "atol": work.atol, "steps": work.steps, "gradient": work.gradient, "rows": work.rows, "parameters": order,
    }  # fmt: skip
    np.savez(to, y0=work.y0.numpy(), t=work.t.numpy(), told=json.dumps(told), **arrays)
