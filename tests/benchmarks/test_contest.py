"""The worker and the pipe to it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import worker
from benchmarks.competitors import MODULES, Unfit
from benchmarks.contest import Pace, Process, contest
from benchmarks.in_jax_environment import NAMED, interpreter


class Counted:
    """A runner that counts its passes."""

    def __init__(self) -> None:
        self.passes = 0
        self.versions = {"nothing": "1"}

    def once(self) -> None:
        self.passes += 1

    def answer(self, to: Path) -> tuple[int, int]:
        np.save(to, np.zeros(1))
        return 3, 4


def asked(*commands: dict[str, Any]) -> list[dict[str, Any]]:
    """What a worker in this process answers."""
    answers = io.StringIO()
    worker.serve(io.StringIO("".join(json.dumps(command) + "\n" for command in commands)), answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """A competitor called ``counted``."""
    made = Counted()

    class Module:
        @staticmethod
        def prepare(case: str, device: str, calls: tuple[int, int]) -> Counted:
            if case == "unfit":
                raise Unfit("not this one")
            if case == "missing":
                raise ModuleNotFoundError("no", name="nonesuch")
            if case == "broken":
                raise RuntimeError("broken")
            return made

    monkeypatch.setitem(MODULES, "counted", "counted")
    monkeypatch.setattr(worker.importlib, "import_module", lambda name: Module)
    monkeypatch.setattr(worker.machine, "one_torch_thread", lambda: None)
    monkeypatch.setattr(worker.machine, "forget_peak", lambda: None)
    return made


def prepare(case: str, folder: Path) -> dict[str, Any]:
    return {
        "do": "prepare", "competitor": "counted", "case": case, "device": "cpu", "calls": [0, 0], "core": None,
        "answer": str(folder / "answer.npy"),
    }  # fmt: skip


def test_a_worker_prepares_and_times(runner: Counted, tmp_path: Path) -> None:
    made, timed = asked(prepare("any", tmp_path), {"do": "time", "passes": 5, "clock": "wall"}, {"do": "stop"})
    assert made["calls"] == [3, 4]
    assert made["versions"] == {"nothing": "1"}
    assert made["first"] >= 0
    assert len(timed["seconds"]) == 5
    assert runner.passes == 2 + 5
    assert (tmp_path / "answer.npy").exists()


def test_a_worker_says_why_it_cannot(runner: Counted, tmp_path: Path) -> None:
    unfit, missing, broken = asked(*(prepare(case, tmp_path) for case in ("unfit", "missing", "broken")))
    assert unfit == {"unfit": "not this one"}
    assert missing == {"unfit": "nonesuch is not installed"}
    assert broken == {"failed": "RuntimeError: broken"}


def test_nothing_is_answered_after_stop(runner: Counted, tmp_path: Path) -> None:
    assert asked({"do": "stop"}, prepare("any", tmp_path)) == []


def test_a_worker_in_a_process_of_its_own_answers_through_its_pipe() -> None:
    process = Process("odekit", "W1")
    try:
        with pytest.raises(Unfit, match="failed: KeyError: 'nonesuch'"):
            process.ask("nonesuch")
    finally:
        process.close()
    assert process.popen.returncode == 0


@pytest.mark.slow
def test_a_contest_in_processes_of_their_own() -> None:
    pace = Pace(rounds=2, seconds=0.001, enough=60.0)
    ours, scipy, limit = contest("W1", ["odekit", "scipy", "limit"], pace)
    assert len(ours.rounds) == len(limit.rounds) == 2
    assert ours.nfe == limit.nfe > 0
    assert ours.error < 1e-5
    assert "torch" in ours.versions
    assert (scipy.rounds, scipy.note[:5]) == ((), "SciPy")


def test_a_process_that_is_gone_is_said_to_be() -> None:
    process = Process("odekit", "W1")
    process.popen.kill()
    process.popen.wait()
    with pytest.raises(Unfit, match="ended with code"):
        process.ask("time", passes=1, clock="wall")
    process.close()


def test_the_python_of_jax_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    interpreter.cache_clear()
    monkeypatch.setenv(NAMED, str(tmp_path / "no-python"))
    with pytest.raises(Unfit, match="does not run"):
        interpreter()
    interpreter.cache_clear()
