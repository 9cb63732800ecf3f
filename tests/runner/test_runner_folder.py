"""The folder of a run: whose it is, and its lines."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from odekit.errors import RunError
from odekit.runner.folder import RunFolder


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.write("spec.toml", "")
        with pytest.raises(RunError, match="another run is writing"), RunFolder(tmp_path / "run", resumed=True):
            pass
    with RunFolder(tmp_path / "run", resumed=True):
        pass


def test_a_folder_with_something_in_it_says_what_to_type(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(RunError, match=rf"not empty.*odekit run --resume {tmp_path}.*--out"), RunFolder(tmp_path):
        pass
    assert (tmp_path / "mine.txt").exists()


def test_an_empty_folder_is_taken_and_a_useless_one_removed(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "a" / "b"):
        pass
    assert not (tmp_path / "a" / "b").exists()
    (tmp_path / "c").mkdir()
    with RunFolder(tmp_path / "c") as folder:
        folder.write("spec.toml", "seed = 1\n")
    assert (tmp_path / "c" / "spec.toml").read_text() == "seed = 1\n"


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be used as a run folder"), RunFolder(tmp_path / "file"):
        pass


def test_there_must_be_a_run_to_resume(tmp_path: Path) -> None:
    with (
        pytest.raises(RunError, match=r"no run in .* to resume: .*spec\.toml is missing"),
        RunFolder(tmp_path / "x", True),
    ):
        pass
    assert not (tmp_path / "x").exists()


def test_lines_are_added_read_and_rewound(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        for step in (1, 2, 3):
            folder.record({"step": step, "loss": 1 / 3, "bad": math.nan})
        with folder.metrics.open("a") as file:
            file.write('{"step": 4, "lo')
        assert [record["step"] for record in folder.records()] == [1, 2, 3]
        assert folder.records()[0] == {"step": 1, "loss": 1 / 3, "bad": None}
        folder.rewind(2)
        assert folder.metrics.read_text().count("\n") == 2
        folder.record({"step": 5})
        assert [record["step"] for record in folder.records()] == [1, 2, 5]
