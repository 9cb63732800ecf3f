"""Every model of ours, chosen by name, trained on real or generated data, stopped and resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from odekit.registry import catalog
from odekit.runner import Choice, Optimizer, SolverChoice, Spec, Stop, Train, experiment, resume, run

FLOW = {
    "model": Choice("ffjord", {"dims": [16, 16]}),
    "data": Choice("moons", {"train": 512, "valid": 64, "test": 64}),
    "train": Train(steps=12, batch_size=64),
    "optimizer": Optimizer(lr=1e-2),
}
DIGITS = {
    "data": "digits",
    "train": Train(steps=24, batch_size=64),
    "optimizer": Optimizer(lr=5e-3),
}
RUNS: dict[str, dict[str, Any]] = {
    "ffjord": {**FLOW, "gradient": "checkpointed", "trace": "hutchinson"},
    "ffjord with the adjoint": {**FLOW, "gradient": "adjoint", "trace": "exact"},
    "odenet": {
        **DIGITS,
        "model": Choice("odenet", {"width": 8}),
        "solver": SolverChoice("rk4", step_size=0.5),
        "gradient": "checkpointed",
    },
    **{name: {**DIGITS, "model": Choice(name, {"width": 8})} for name in ("resnet", "one-block", "stem-only")},
}


def numbers(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    times = {"wall_seconds", "peak_memory_mib"}
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    test = json.loads((folder / "result.json").read_text())["test"]
    return [{name: value for name, value in record.items() if name not in times} for record in records], test


def test_every_model_of_ours_is_run_here() -> None:
    ours = {entry.name for entry in catalog().entries("model") if entry.first_party}
    assert {Spec(**given).model.name for given in RUNS.values()} == ours


@pytest.mark.parametrize("name", RUNS)
def test_a_model_learns_and_resumes_to_the_same_bits(name: str, tmp_path: Path, monkeypatch) -> None:
    spec = Spec(**RUNS[name], seed=1, threads=1)
    result = run(spec, tmp_path / "straight")
    assert (result.stop, result.step) == (Stop.FINISHED, spec.train.steps)
    records, _ = numbers(tmp_path / "straight")
    assert records[-1]["train_loss"] < records[0]["train_loss"]
    solves = spec.model.name in ("ffjord", "odenet")
    assert (result.nfe_forward > 0) == (result.nfe_backward > 0) == solves
    assert ("| solver |" in (tmp_path / "straight" / "report.md").read_text()) == solves

    watches = iter([None] * 7 + [Stop.INTERRUPTED] + [None] * 20)
    monkeypatch.setattr(experiment.Watch, "reason", lambda self: next(watches))
    assert run(spec, tmp_path / "stopped").step == 7
    resume(tmp_path / "stopped")
    assert numbers(tmp_path / "stopped") == numbers(tmp_path / "straight")
    weights = [load_file(tmp_path / folder / "weights.safetensors") for folder in ("straight", "stopped")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
