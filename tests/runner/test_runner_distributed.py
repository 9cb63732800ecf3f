"""Two real processes, as torchrun starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import runner_stubs
import torch
from safetensors.torch import load_file

from odekit.runner import Choice, Evaluate, Optimizer, Spec, Train, run, toml
from odekit.runner.distributed import Processes, joined


def torchrun(*arguments: str | Path, parameters: Path | None = None) -> subprocess.CompletedProcess[str]:
    """``odekit run`` in two processes; each writes its parameters into a folder at the end."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "STUB_PARAMETERS": str(parameters or "")}
    return subprocess.run(
        [sys.executable, *launcher, runner_stubs.__file__, "run", *map(str, arguments)],
        capture_output=True, text=True, timeout=200, env=environment, check=False,
    )  # fmt: skip


def spec() -> Spec:
    return Spec(
        model=Choice("stub-restless", {"noisy": False}),
        data=Choice("stub-clusters", {"size": 41, "still": True}),
        train=Train(epochs=3, batch_size=8, select="best"),
        optimizer=Optimizer("sgd", 0.1, momentum=0.9),
        evaluate=Evaluate(every=4, batch_size=10),
        dtype="float64",
        threads=1,
    )


def parameters(folder: Path) -> list[dict[str, torch.Tensor]]:
    return [load_file(folder / f"rank-{rank}.safetensors") for rank in range(2)]


def test_two_processes_train_one_model_as_one_process_would(tmp_path: Path) -> None:
    alone = run(spec(), tmp_path / "alone")
    (tmp_path / "spec.toml").write_text(toml.dumps(spec()))
    done = torchrun(tmp_path / "spec.toml", "--out", tmp_path / "two", "--json", parameters=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["processes"] == 2
    assert done.stderr.count("device: cpu") == 1
    assert result["test"] == pytest.approx(alone.test, rel=1e-9)
    first, second = parameters(tmp_path)
    together, single = (load_file(tmp_path / name / "weights.safetensors") for name in ("two", "alone"))
    for name in single:
        assert torch.equal(first[name], second[name])
        assert torch.allclose(together[name], single[name], rtol=1e-9, atol=0)
    records = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("alone", "two")
    ]
    for one, two in zip(*records, strict=True):
        for name in one.keys() - {"wall_seconds", "peak_memory_mib"}:
            assert two[name] == pytest.approx(one[name], rel=1e-9)
    seeds = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2)]
    assert len(seeds[0]) == len(seeds[1]) == 15
    assert len({*seeds[0], *seeds[1]}) == 30


def test_an_error_in_one_process_ends_the_run(tmp_path: Path) -> None:
    done = torchrun(
        "stub-one-rank-fails", "--data", "stub-plane", "--batch-size", "4", "--steps", "50", "--out", tmp_path / "run"
    )
    assert done.returncode != 0
    assert "the second process gave up" in done.stderr
    assert not (tmp_path / "run" / "report.md").exists()
    resumable = list((tmp_path / "run" / "checkpoints").glob("*.json"))
    assert resumable


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with joined() as processes:
        assert processes == Processes(0, 1, 0)
        assert processes.first
        assert processes.largest(3) == 3
        assert torch.equal(processes.total(torch.ones(2)), torch.ones(2))
