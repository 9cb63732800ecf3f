"""Checkpoints are whole, or not there."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from odekit.errors import RunError
from odekit.runner.checkpoint import Checkpoints, write_atomically

WRITER = """
import itertools, sys, torch
from pathlib import Path
from odekit.runner.checkpoint import Checkpoints
checkpoints = Checkpoints(Path(sys.argv[1]))
print("writing", flush=True)
for step in itertools.count(1):
    checkpoints.save(step, {"w": torch.full((20_000,), float(step))}, {"step": step})
"""


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints")


def save(checkpoints: Checkpoints, *steps: int) -> None:
    for step in steps:
        checkpoints.save(step, {"w": torch.full((50,), float(step)), "n": torch.tensor(step)}, {"loss": 0.1 * step})


def damage(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


def test_what_was_saved_comes_back_to_the_last_bit(checkpoints: Checkpoints) -> None:
    tensors = {
        "a": torch.randn(3, 4).T,
        "b": torch.randn(2, dtype=torch.float64)[::2],
        "c": torch.tensor(7),
        "d": torch.zeros(0, 3),
        "e": torch.tensor([True, False]),
        "same": torch.ones(3),
    }
    tensors["again"] = tensors["same"]
    state = {"loss": 0.1 + 0.2, "count": 3, "commands": ["odekit run"], "best": None}
    checkpoints.save(5, tensors, state)
    found, lines = checkpoints.newest()
    assert lines == []
    assert found.step == 5
    assert found.state == state
    assert found.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found.tensors[name], tensor)
        assert found.tensors[name].dtype == tensor.dtype


def test_the_last_two_are_kept(checkpoints: Checkpoints) -> None:
    save(checkpoints, 1, 2, 3, 4)
    assert len(list(checkpoints.folder.iterdir())) == 4
    assert checkpoints.newest()[0].step == 4
    save(checkpoints, 4)
    assert len(list(checkpoints.folder.iterdir())) == 4


def test_no_checkpoint_is_not_an_error(checkpoints: Checkpoints) -> None:
    assert checkpoints.newest() == (None, [])
    checkpoints.clean(None)


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
@pytest.mark.parametrize("kind", ["flip", "cut", "empty", "gone"])
def test_a_damaged_one_is_passed_over_and_named(checkpoints: Checkpoints, suffix: str, kind: str) -> None:
    save(checkpoints, 1, 2)
    (path,) = checkpoints.folder.glob(f"step-000000002*.{suffix}")
    match kind:
        case "flip":
            damage(path, path.stat().st_size // 2)
        case "cut":
            path.write_bytes(path.read_bytes()[:-10])
        case "empty":
            path.write_bytes(b"")
        case "gone":
            path.unlink()
    found, lines = checkpoints.newest()
    assert found.step == 1
    assert torch.equal(found.tensors["w"], torch.ones(50))
    if (suffix, kind) != ("json", "gone"):
        assert len(lines) == 1
        assert "step-000000002.json is damaged" in lines[0]
    checkpoints.clean(found)
    assert checkpoints.newest()[1] == []


def test_every_flipped_bit_is_found(checkpoints: Checkpoints) -> None:
    save(checkpoints, 1, 2)
    for path in checkpoints.folder.glob("step-000000002*"):
        whole = path.read_bytes()
        for at in range(0, len(whole), 1 if path.suffix == ".json" else 7):
            damage(path, at)
            found, _ = checkpoints.newest()
            assert found.step == 1 or found.state == {"loss": 0.2}
            assert torch.equal(found.tensors["w"], torch.full((50,), float(found.step)))
            path.write_bytes(whole)


def test_all_damaged_is_an_error(checkpoints: Checkpoints) -> None:
    save(checkpoints, 1)
    for path in checkpoints.folder.glob("*.safetensors"):
        damage(path, 200)
    with pytest.raises(RunError, match=r"no checkpoint in .* is whole.*step-000000001\.json.*digest"):
        checkpoints.newest()


def test_a_pickle_is_not_executed(checkpoints: Checkpoints, tmp_path: Path) -> None:
    save(checkpoints, 1)
    trace = tmp_path / "executed"
    evil = f"cos\nsystem\n(S'touch {trace}'\ntR.".encode()
    for path in checkpoints.folder.iterdir():
        path.write_bytes(evil)
    with pytest.raises(RunError):
        checkpoints.newest()
    assert not trace.exists()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left on device"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_checkpoints_there_are(checkpoints: Checkpoints) -> None:
    save(checkpoints, 1, 2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(RunError, match=r"could not be written: File too large\. What was there before is intact"):
            checkpoints.save(3, {"w": torch.zeros(5000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    found, lines = checkpoints.newest()
    assert (found.step, lines) == (2, [])
    assert len(list(checkpoints.folder.iterdir())) == 4


def killed_while_writing(folder: Path, pause: float) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(pause)
        writer.send_signal(signal.SIGKILL)


def check_after_kill(checkpoints: Checkpoints) -> None:
    found, lines = checkpoints.newest()
    assert lines == []
    assert found is not None
    assert torch.equal(found.tensors["w"], torch.full((20_000,), float(found.state["step"])))
    checkpoints.clean(found)
    assert not list(checkpoints.folder.glob(".*.tmp"))


def test_a_kill_while_writing_leaves_a_whole_one(checkpoints: Checkpoints) -> None:
    killed_while_writing(checkpoints.folder, 0.3)
    check_after_kill(checkpoints)


@pytest.mark.slow
def test_kills_at_many_moments(checkpoints: Checkpoints) -> None:
    for _ in range(12):
        killed_while_writing(checkpoints.folder, random.uniform(0.1, 0.4))
        check_after_kill(checkpoints)


def test_the_json_says_what_it_belongs_to(checkpoints: Checkpoints) -> None:
    save(checkpoints, 12)
    card = json.loads((checkpoints.folder / "step-000000012.json").read_text())
    assert card["step"] == 12
    assert (checkpoints.folder / card["tensors"]).stat().st_size == card["size"]
