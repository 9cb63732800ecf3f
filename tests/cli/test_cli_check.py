"""``odekit check``: the table, JSON, and exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from odekit.cli.main import main
from odekit.registry import catalog

TRACE = """
import torch
import odekit
from odekit.core.protocols import TraceEstimator

class Mine(TraceEstimator):
    name = "mine"
    exact = True
    def __call__(self, f, t, y, noise=None):
        dy, pull = torch.func.vjp(lambda y: f(t, y), y)
        units = torch.eye(y.shape[1], dtype=y.dtype)
        return dy, sum(pull(unit.expand_as(y))[0][:, k] for k, unit in enumerate(units)) * FACTOR

@odekit.hookimpl
def register_trace_estimators(register):
    register(Mine)
"""


@pytest.fixture(autouse=True)
def _own_catalog() -> Iterator[None]:
    """What a test registers is gone after it."""
    yield
    catalog.cache_clear()


def run(*arguments: str | Path) -> Result:
    return CliRunner(env={"ODEKIT_DATA": ""}).invoke(main, ["check", *map(str, arguments)], prog_name="odekit")


def plugin(folder: Path, factor: float) -> Path:
    file = folder / "mine.py"
    file.write_text(TRACE.replace("FACTOR", str(factor)))
    return file


def test_the_table_and_success() -> None:
    result = run("exact", "moons")
    assert result.exit_code == 0, result.output
    header, exact, moons, _, total = result.stdout.splitlines()
    assert header.split() == ["NAME", "KIND", "ORDER", "DIGITS", "MEMORY", "CHECKS", "SECONDS", "VERDICT"]
    assert exact.split()[:2] == ["exact", "trace"]
    assert moons.split()[-1] == "passed"
    assert total == "2 passed"


def test_a_plugin_in_a_file_that_is_right(tmp_path: Path) -> None:
    result = run("--plugin", plugin(tmp_path, 1.0))
    assert result.exit_code == 0, result.output
    assert "mine  trace" in result.stdout


def test_a_plugin_in_a_file_that_is_wrong(tmp_path: Path) -> None:
    result = run("--plugin", plugin(tmp_path, 0.99))
    assert result.exit_code == 1
    assert "failed" in result.stdout
    assert "    exact: measured 1.0e-02 apart; expected rounding" in result.stdout
    assert result.stdout.splitlines()[-1] == "1 failed"


def test_json_for_machines(tmp_path: Path) -> None:
    result = run("--json", "--plugin", plugin(tmp_path, 0.99))
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert told["holds"] is False
    (report,) = told["reports"]
    assert (report["name"], report["kind"], report["distribution"]) == ("mine", "trace", "local")
    findings = {finding["check"]: finding for finding in report["findings"]}
    assert findings["exact"]["verdict"] == "failed"
    assert findings["exact"]["numbers"]["digits"] == pytest.approx(2, abs=0.1)
    assert findings["unbiased"]["verdict"] == "skipped"
    assert findings["shapes"]["verdict"] == "passed"


def test_files_that_are_missing_are_no_success() -> None:
    result = run("mnist")
    assert result.exit_code == 1
    assert "skipped" in result.stdout
    assert "not in the data folder (none is set)" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "say what to check"),
        (("dopri6",), 1, "Did you mean 'dopri8'?"),
        (("--plugin", "nowhere.py"), 2, "does not exist"),
    ],
    ids=["nothing", "unknown", "no file"],
)
def test_what_is_typed_wrongly(arguments: tuple[str, ...], code: int, words: str) -> None:
    result = run(*arguments)
    assert result.exit_code == code
    assert words in result.stderr


def test_a_file_that_cannot_be_imported(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("import nothing_of_that_name\n")
    result = run("--plugin", file)
    assert result.exit_code == 1
    assert "broken.py cannot be imported: ModuleNotFoundError" in result.stderr
    file.write_text("x = 1\n")
    assert "it has no hook" in run("--plugin", file).stderr


def test_a_distribution_is_all_that_it_brings() -> None:
    from odekit.cli.check import _named

    entries = _named(catalog(), ["odekit", "exact"])
    assert entries == [entry for entry in catalog().entries() if entry.first_party]


WRONG = Path(__file__).parents[1] / "testing" / "wrong.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cls", "hook", "check"),
    [
        ("OneCoefficient", "register_solvers", "order"),
        ("Biased", "register_trace_estimators", "unbiased"),
        ("OffOnOneParameter", "register_gradient_methods", "gradient"),
        ("Mutates", "register_solvers", "inputs-untouched"),
    ],
)
def test_a_file_that_is_wrong_in_one_way_is_caught(tmp_path: Path, cls: str, hook: str, check: str) -> None:
    file = tmp_path / "mine.py"
    hooked = f"\n\nimport odekit\n\n\n@odekit.hookimpl\ndef {hook}(register):\n    register({cls})\n"
    file.write_text(WRONG.read_text() + hooked)
    result = run("--plugin", file)
    assert result.exit_code == 1
    assert f"\n    {check}: measured " in result.stdout
    assert result.stdout.splitlines()[-1] == "1 failed"
