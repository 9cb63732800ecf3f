"""``odekit profile``: what is measured, in a process of its own, and what is recommended."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from odekit.errors import NameNotFound, OptionError
from odekit.runner import Choice, SolverChoice, Spec, Train, toml
from odekit.runner import profile as profiling
from odekit.runner.profile import Cost, measured, profile, recommendation, relative_error

FLOW = Spec(
    model=Choice("ffjord", {"dims": [8]}),
    data=Choice("moons", {"train": 64, "valid": 8, "test": 8}),
    train=Train(steps=1, batch_size=16),
    trace="exact",
    solver=SolverChoice("rk4", step_size=0.25),
    gradient="direct",
    device="cpu",
)


def test_a_method_is_measured_on_the_first_batch(tmp_path: Path) -> None:
    found = {}
    for name in ("direct", "checkpointed"):
        spec = attrs.evolve(FLOW, gradient=Choice(name), dtype="float64")
        found[name] = measured(spec, None, 1, tmp_path / name)
    direct, checkpointed = found["direct"], found["checkpointed"]
    assert (direct["picked"], direct["nfe_backward"]) == ("", 0)
    assert direct["nfe_forward"] > 0
    assert checkpointed["nfe_backward"] > 0
    assert direct["seconds"] > 0
    assert direct["peak_mib"] >= 0
    grads = [np.load(f"{tmp_path / name}.npy") for name in found]
    assert relative_error(*grads) < 1e-10


def test_a_rule_says_what_it_picked(tmp_path: Path) -> None:
    spec = attrs.evolve(FLOW, gradient=Choice("auto", {"memory_limit": 1e9}))
    assert measured(spec, None, 1, tmp_path / "auto")["picked"] == "direct"


def test_a_model_that_solves_nothing_has_nothing_to_profile() -> None:
    with pytest.raises(OptionError, match="'stem-only' solves no ODE"):
        profile(Spec(model="stem-only", data="digits"))


def test_errors_are_relative() -> None:
    assert relative_error(np.array([3.0, 4.5]), np.array([3.0, 4.0])) == pytest.approx(0.1)
    assert relative_error(np.array([0.0]), np.array([0.0])) == 0


def costs(**rows: tuple[float, float, float | None]) -> list[Cost]:
    return [Cost(name, peak_mib=mib, seconds=s, error=error) for name, (mib, s, error) in rows.items()]


@pytest.mark.parametrize(
    ("rows", "name", "why"),
    [
        ({"a": (10, 1.0, 1e-7), "b": (1, 2.0, 1e-7)}, "a", "the fastest"),
        ({"a": (10, 1.0, 1e-7), "b": (1, 1.05, 1e-7)}, "b", "of the fastest, the one with the least memory"),
        ({"a": (10, 1.0, 1e-2), "b": (1, 2.0, 1e-6)}, "b", "the fastest among those with an accurate gradient"),
        ({"a": (900, 1.0, 1e-7), "b": (1, 2.0, 1e-7)}, "b", "the fastest that fit into a quarter of the free memory"),
        ({"a": (900, 1.0, 1e-7), "b": (800, 2.0, 1e-7)}, "b", "takes the least memory, though"),
        ({"a": (10, 1.0, None), "b": (1, 2.0, None)}, "a", "the fastest"),
        ({"a": (10, 1.0, math.nan), "b": (1, 2.0, math.nan)}, "a", "the fastest"),
    ],
)
def test_the_recommendation_and_its_reason(rows: dict[str, Any], name: str, why: str) -> None:
    found, reason = recommendation(costs(**rows), room_mib=100)
    assert found == name
    assert reason.startswith(why)


def test_neither_rules_nor_methods_that_failed_are_recommended() -> None:
    able = Cost("slow", peak_mib=1, seconds=9.0, error=1e-7)
    others = [Cost("auto", picked="direct", peak_mib=1, seconds=1.0, error=0.0), Cost("bad", problem="cannot")]
    assert recommendation([*others, able], 100) == ("slow", "the fastest")
    assert recommendation(others, 100) == (None, "no method works with this model")


def test_names_are_checked_before_anything_is_measured() -> None:
    with pytest.raises(NameNotFound, match="no-such"):
        profile(attrs.evolve(FLOW, model=Choice("no-such")))


@pytest.mark.parametrize(
    ("ended", "problem"),
    [
        (subprocess.TimeoutExpired("python", 3), "took longer than 3 s"),
        (subprocess.CompletedProcess("python", -9, "", ""), "was killed by signal 9; out of memory?"),
        (subprocess.CompletedProcess("python", 1, "", "a\nImportError: b\n"), "ImportError: b"),
        (subprocess.CompletedProcess("python", 0, '{"problem": "cannot"}\n', ""), "cannot"),
    ],
)
def test_a_method_that_ends_badly_is_a_line(ended: Any, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: Any, **options: Any) -> Any:
        if isinstance(ended, Exception):
            raise ended
        return ended

    monkeypatch.setattr(profiling.subprocess, "run", run)
    notes: list[str] = []
    found = profile(FLOW, time_limit=3, note=notes.append)
    assert {cost.problem for cost in found.costs} == {problem}
    assert found.recommended is None
    assert found.reference == problem
    assert "direct ..." in notes
    json.dumps(found.as_dict(), allow_nan=False)


@pytest.mark.slow
def test_a_process_answers_in_json(tmp_path: Path) -> None:
    spec = attrs.evolve(FLOW, solver=SolverChoice("rk4", step_size=0.25, max_steps=1))
    task = {"spec": toml.tables(spec), "data_folder": None, "repeats": 1, "out": str(tmp_path / "out.npy")}
    command = [sys.executable, "-m", "odekit.runner.profile"]
    ended = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True, check=True, timeout=120)
    assert "max_steps" in json.loads(ended.stdout)["problem"]


@pytest.mark.slow
def test_every_method_of_a_model_side_by_side() -> None:
    found = profile(attrs.evolve(FLOW, threads=1), repeats=1, methods=["direct", "auto"])
    by_name = {cost.gradient: cost for cost in found.costs}
    assert found.reference == "checkpointed in float64"
    for name in ("direct", "auto"):
        assert by_name[name].error < 1e-5
    assert by_name["auto"].picked == "direct"
    assert (found.recommended, found.reason) == ("direct", "the fastest")
