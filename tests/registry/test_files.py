"""Plugins in one file: loaded by path, whole or not at all, and again when they have changed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fake_site import solver_source

import odekit
from odekit.errors import NameNotFound, PluginError
from odekit.registry import catalog


@pytest.fixture(autouse=True)
def _own_catalog() -> Iterator[None]:
    """What a test registers is gone after it."""
    before = set(sys.modules)
    yield
    catalog.cache_clear()
    for name in set(sys.modules) - before:
        if name.startswith("odekit_plugin_"):
            del sys.modules[name]


def written(file: Path, source: str) -> Path:
    file.write_text(source)
    return file


def local_names() -> list[str]:
    return [entry.name for entry in catalog().entries() if entry.distribution == "local"]


def test_a_file_brings_what_its_hooks_register(tmp_path: Path) -> None:
    file = written(tmp_path / "mine.py", solver_source("mine", "other"))
    entries = odekit.load_plugin(file)
    assert [(e.name, e.kind, e.distribution, e.version) for e in entries] == [
        ("mine", "solver", "local", ""),
        ("other", "solver", "local", ""),
    ]
    assert {entry.entry_point for entry in entries} == {str(file)}
    assert odekit.solve(lambda t, y: y, torch.ones(1), [0.0, 1.0], solver="mine", step_size=0.5).y1 == 1
    assert [(p.name, p.value, p.state) for p in catalog().plugins if p.distribution == "local"] == [
        ("mine.py", str(file), "loaded")
    ]
    assert "mine" not in sys.modules
    assert not list(tmp_path.glob("__pycache__"))


def test_a_file_that_has_not_changed_keeps_its_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path / "mine.py", solver_source("mine"))
    odekit.load_plugin(file)
    first = catalog().get("solver", "mine")
    monkeypatch.chdir(tmp_path)
    odekit.load_plugin("mine.py")
    assert catalog().get("solver", "mine") is first
    assert local_names() == ["mine"]


def test_a_file_that_has_changed_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    file = written(tmp_path / "mine.py", solver_source("mine", "gone"))
    odekit.load_plugin(file)
    first = catalog().get("solver", "mine")
    odekit.load_plugin(written(file, solver_source("mine", "come")))
    assert catalog().get("solver", "mine") is not first
    assert local_names() == ["come", "mine"]


def test_files_of_one_name_in_two_folders_are_two(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        odekit.load_plugin(written(tmp_path / name / "mine.py", solver_source(name)))
    assert local_names() == ["one", "two"]


def test_unloading_takes_all_of_it_out(tmp_path: Path) -> None:
    file = written(tmp_path / "mine.py", solver_source("mine", "euler"))
    problems, plugins = list(catalog().problems), list(catalog().plugins)
    odekit.load_plugin(file)
    [line] = catalog().problems[len(problems) :]
    assert "odekit has a solver 'euler' already. Write 'local:euler' for the one of local." in line
    assert catalog().entry("solver", "euler").distribution == "odekit"
    file.unlink()
    odekit.unload_plugin(file)
    assert (local_names(), catalog().problems, catalog().plugins) == ([], problems, plugins)
    with pytest.raises(NameNotFound, match="no solver is called 'mine'"):
        catalog().get("solver", "mine")
    with pytest.raises(PluginError, match=r"mine\.py is not loaded"):
        odekit.unload_plugin(file)


GOOD = solver_source("mine")
BROKEN = {
    "import": ("import nothing_of_that_name", "cannot be imported: ModuleNotFoundError: .* Install what it imports"),
    "exit": ("x = 1\nimport sys; sys.exit(3)", r"cannot be imported: SystemExit: 3 \(line 2\). Mend the file"),
    "exception": ("x = 1\n\n1 / 0", r"ZeroDivisionError: division by zero \(line 3\). Mend the file"),
    "syntax": ("def (:", r"SyntaxError: .*line 1\). Mend the file"),
    "odd": ("class Odd(BaseException): pass\nraise Odd('ho')", r"Odd: ho \(line 2\)"),
    "no hook": ("x = 1", "it has no hook"),
    "misspelt": (GOOD.replace("def register_solvers", "def register_solver"), "Did you mean 'register_solvers'?"),
    "arguments": (GOOD.replace("solvers(register)", "solvers(add)"), r"Write it as register_solvers\(register\)"),
    "registering": (GOOD + "    raise OSError('full')\n", "fails when it registers: OSError: full .*Mend the file"),
    "no solver": (GOOD + "    register(dict)\n", "dict is not a solver"),
    "twice": (solver_source("mine", "mine"), "local registers the solver 'mine' twice"),
    "protocol": (GOOD + "ODEKIT_PROTOCOL = 9\n", r"made for version 9 .* has version 1\. Update odekit"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_an_error_of_one_line_and_leaves_nothing(tmp_path: Path, case: str) -> None:
    source, message = BROKEN[case]
    before = set(sys.modules)
    file = written(tmp_path / "broken.py", source)
    with pytest.raises(PluginError, match=message) as raised:
        odekit.load_plugin(file)
    assert str(raised.value).startswith(str(file))
    assert str(raised.value).count(str(file)) == 1
    assert "\n" not in str(raised.value)
    assert local_names() == []
    assert [plugin for plugin in catalog().plugins if plugin.distribution == "local"] == []
    if "cannot be imported" in str(raised.value):
        assert not [name for name in set(sys.modules) - before if name.startswith("odekit_plugin_")]


def test_a_file_that_broke_since_leaves_what_it_brought_before(tmp_path: Path) -> None:
    file = written(tmp_path / "mine.py", GOOD)
    odekit.load_plugin(file)
    first = catalog().get("solver", "mine")
    for source in ("1 / 0", GOOD + "    register(dict)\n"):
        with pytest.raises(PluginError):
            odekit.load_plugin(written(file, source))
        assert catalog().get("solver", "mine") is first


@pytest.mark.parametrize(
    ("name", "message"),
    [("none.py", "there is no file"), ("folder", "is a folder"), ("notes.txt", r"give one that ends in \.py")],
)
def test_what_is_no_python_file(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    written(tmp_path / "notes.txt", "")
    with pytest.raises(PluginError, match=message):
        odekit.load_plugin(tmp_path / name)


def test_two_files_with_one_name_are_an_error_that_names_both(tmp_path: Path) -> None:
    odekit.load_plugin(written(tmp_path / "a.py", GOOD))
    with pytest.raises(PluginError, match=r"registers the solver 'mine' twice .*a\.py' and '.*b\.py'"):
        odekit.load_plugin(written(tmp_path / "b.py", GOOD))
    assert local_names() == ["mine"]


def test_strict_refuses_a_clash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog()
    monkeypatch.setenv("ODEKIT_STRICT", "1")
    with pytest.raises(PluginError, match="'local:euler'"):
        odekit.load_plugin(written(tmp_path / "mine.py", solver_source("euler")))
    assert local_names() == []


def test_ctrl_c_passes_and_what_is_printed_goes_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        odekit.load_plugin(written(tmp_path / "slow.py", "raise KeyboardInterrupt"))
    odekit.load_plugin(written(tmp_path / "loud.py", f"print('at import')\n{GOOD}    print('at registration')\n"))
    assert capsys.readouterr() == ("", "at import\nat registration\n")
