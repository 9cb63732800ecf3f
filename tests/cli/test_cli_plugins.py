"""``--plugin FILE.py`` on every command, and runs that remember it."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from odekit.cli.main import COMMANDS, main
from odekit.registry import catalog

SOURCE = """
import torch
import odekit
from odekit.core.protocols import Classifier, Data, Dataset, Split

class Sides(Dataset):
    "On which side of an axis a point is."
    name = "sides"
    task = "classification"
    @classmethod
    def load(cls, folder, seed, **options):
        x = torch.randn(30, 2, generator=torch.Generator().manual_seed(seed))
        return Data(*(Split(part, (part[:, 0] > 0).long()) for part in x.chunk(3)), shape=(2,), classes=2)

class Flat(Classifier):
    "A linear layer."
    name = "flat"
    def __init__(self, inputs, classes):
        super().__init__()
        self.net = torch.nn.Linear(inputs, classes)
    @classmethod
    def build(cls, shape, classes, tools, **options):
        return cls(*shape, classes)
    def forward(self, x):
        return self.net(x)

@odekit.hookimpl
def register_datasets(register):
    register(Sides)

@odekit.hookimpl
def register_models(register):
    register(Flat)
"""


@pytest.fixture(autouse=True)
def _own_catalog() -> Iterator[None]:
    """What a test loads is gone after it."""
    catalog.cache_clear()
    yield
    catalog.cache_clear()
    for name in [name for name in sys.modules if name.startswith("odekit_plugin_")]:
        del sys.modules[name]


@pytest.fixture
def sides(tmp_path: Path) -> Path:
    file = tmp_path / "sides.py"
    file.write_text(SOURCE)
    return file


def run(*arguments: str | Path) -> Result:
    return CliRunner(env={"ODEKIT_DATA": ""}).invoke(main, [*map(str, arguments)], prog_name="odekit")


SHORT = ("flat", "--data", "sides", "--steps", "1", "--batch-size", "4", "--quiet")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_option(name: str) -> None:
    assert "--plugin FILE.py" in run(name, "--help").stdout


@pytest.mark.parametrize("before", [True, False])
def test_it_is_understood_before_and_after_the_command(sides: Path, before: bool) -> None:
    words = ["--plugin", sides, "list", "datasets"] if before else ["list", "datasets", "--plugin", sides]
    result = run(*words)
    assert result.exit_code == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("sides ")]
    assert line.split()[:4] == ["sides", "dataset", "classification", "local"]


def test_it_can_be_repeated_and_shows_among_the_plugins(sides: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text(SOURCE.replace('"sides"', '"other"').replace('"flat"', '"round"'))
    result = run("--plugin", sides, "list", "--plugin", other, "--plugin", other, "--json")
    told = json.loads(result.stdout)
    assert [plugin["value"] for plugin in told["plugins"] if plugin["distribution"] == "local"] == [
        str(sides),
        str(other),
    ]
    assert {"sides", "other"} <= {entry["name"] for entry in told["entries"]}


@pytest.mark.parametrize("words", [["list"], ["check", "exact"], ["run", *SHORT], ["profile", *SHORT[:3]]])
def test_a_file_that_cannot_be_loaded_ends_the_command(tmp_path: Path, words: list[str]) -> None:
    file = tmp_path / "broken.py"
    file.write_text("import nothing_of_that_name\n")
    result = run(*words, "--plugin", file)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {file} cannot be imported: ModuleNotFoundError")
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_a_file_is_not_loaded_for_help(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("1 / 0\n")
    assert run("list", "--plugin", file, "--help").exit_code == 0


def test_a_run_remembers_its_plugins(sides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = run("--plugin", "sides.py", "run", *SHORT, "--out", "first")
    assert first.exit_code == 0, first.stderr
    assert tomllib.loads(Path("first/spec.toml").read_text())["plugins"] == [str(sides)]
    assert "odekit --plugin sides.py run flat" in Path("first/report.md").read_text()
    catalog.cache_clear()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = run("run", tmp_path / "first/spec.toml", "--out", "again", "--quiet")
    assert again.exit_code == 0, again.stderr
    catalog.cache_clear()
    assert run("run", "--resume", "again", "--quiet").exit_code == 0
    refused = run("run", "--resume", "again", "--plugin", sides)
    assert refused.exit_code == 2
    assert "--resume takes everything from" in refused.stderr
    sides.unlink()
    gone = run("run", tmp_path / "first/spec.toml", "--out", "gone", "--quiet")
    assert gone.exit_code == 1
    assert f"there is no file {sides}" in gone.stderr


def test_relative_paths_in_a_spec_begin_at_its_folder(sides: Path, tmp_path: Path) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text('plugins = ["sides.py"]\nmodel = "flat"\ndata = "sides"\ntrain = {steps = 1, batch_size = 4}\n')
    result = run("run", spec, "--plugin", sides, "--out", tmp_path / "out", "--quiet")
    assert result.exit_code == 0, result.stderr
    assert tomllib.loads((tmp_path / "out/spec.toml").read_text())["plugins"] == [str(sides)]


def test_plugins_in_a_spec_are_a_list(tmp_path: Path) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text('plugins = "sides.py"\nmodel = "ffjord"\ndata = "moons"\n')
    result = run("run", spec)
    assert result.exit_code == 1
    assert "plugins" in result.stderr
    assert "expected a list" in result.stderr
