"""``odekit new``: what it writes is whole, filled in, and works as it stands."""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from odekit.cli.main import main
from odekit.cli.template import Names, files
from odekit.errors import InputError
from odekit.registry import KINDS, PROTOCOL, catalog, load
from odekit.testing import examine

CONTRIB = Path(__file__).parents[2] / "contrib" / "template"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield
    catalog.cache_clear()
    for name in set(sys.modules) - before:
        if name.startswith("odekit_"):
            del sys.modules[name]


def run(*arguments: str | Path) -> Result:
    return CliRunner(env={"ODEKIT_DATA": ""}).invoke(main, ["new", *map(str, arguments)], prog_name="odekit")


def contents(folder: Path) -> dict[str, str]:
    """The texts of a folder by their paths, without what tools leave there."""
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    kept = [path for path in paths if not {"__pycache__", ".pytest_cache", "build", "dist"} & set(path.parts)]
    return {path.as_posix(): (folder / path).read_text() for path in kept}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_loads_by_its_entry_point(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("my-own", "--kind", kind)
    assert result.exit_code == 0, result.stderr
    folder = tmp_path / "odekit-my-own"
    assert set(contents(folder)) == {
        "pyproject.toml", "README.md", "src/odekit_my_own/__init__.py", "src/odekit_my_own/my_own.py",
        "tests/test_my_own.py",
    }  # fmt: skip
    assert [path for path, text in contents(folder).items() if "$" in text] == []
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / "src" / f"odekit_my_own-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = [f"{name} = {value}" for name, value in project["entry-points"]["odekit"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[odekit]", *points, ""]))
    monkeypatch.syspath_prepend(str(folder / "src"))
    importlib.invalidate_caches()
    loaded = load([str(folder / "src")], {})
    (entry,) = loaded.entries()
    assert loaded.problems == ["odekit's own plugins are missing: odekit is not installed as a distribution here. "
                               "Install it, from its folder with `pip install -e .`."]  # fmt: skip
    assert (entry.kind, entry.name, entry.distribution, entry.version) == (kind, "my-own", "odekit-my-own", "0.1.0")
    assert sys.modules["odekit_my_own"].ODEKIT_PROTOCOL == PROTOCOL


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if kind in ("solver", "gradient") else []) for kind in KINDS]
)
def test_what_is_written_passes_its_check_and_its_suite(kind: str, tmp_path: Path) -> None:
    import odekit

    assert run("my-own", "--kind", kind).exit_code == 0
    (entry,) = odekit.load_plugin(tmp_path / "odekit-my-own/src/odekit_my_own/my_own.py")
    report = examine(kind, entry.name, entry.object)
    assert report.verdict.value == "passed", report.failures
    test = (tmp_path / "odekit-my-own/tests/test_my_own.py").read_text()
    assert f"class TestMyOwn({kind.capitalize()}Suite):\n    {kind} = MyOwn\n" in test


def test_the_template_of_contrib_is_what_is_written() -> None:
    assert contents(CONTRIB) == files("solver", Names.of("kutta3", "odekit-template"))


def test_the_three_commands_are_told() -> None:
    told = run("mine", "--kind", "trace", "--out", "there/mine").stdout.split("\n\n")[1]
    commands = ["pip install -e ./there/mine", "odekit list trace", "odekit check odekit-mine"]
    assert told.splitlines() == commands
    readme = Path("there/mine/README.md").read_text()
    assert all(command in readme for command in ("pip install -e .", "odekit list traces", commands[2]))


@pytest.mark.parametrize(
    ("name", "kind", "cls"),
    [("ab-c.2", "solver", "AbC2"), ("data", "dataset", "DataDataset"), ("field", "model", "FieldModel")],
)
def test_the_class_has_a_name_of_its_own(name: str, kind: str, cls: str) -> None:
    written = files(kind, Names.of(name, "odekit-mine"))
    (source,) = [text for path, text in written.items() if path.startswith("src") and "hookimpl" in text]
    assert source.count(f"class {cls}(") == 1
    assert f"    register({cls})\n" in source


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("3rd", "Write it as 'rd'"),
        ("has space", "Write it as 'has-space'"),
        ("a/b", "Write it as 'a-b'"),
        ("../up", "expected a letter"),
        ("", "Write it as 'mine'"),
        ("class", "is a word of Python"),
        ("rk4", "odekit has a solver 'rk4' already"),
        ("solvers", "a package 'odekit_solvers' is installed already"),
    ],
)
def test_bad_names_write_nothing(name: str, message: str, tmp_path: Path) -> None:
    result = run(name, "--kind", "solver")
    assert result.exit_code == 1
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("distribution", ["torch", "odekit", "two words", "-x", "1st"])
def test_bad_distributions_write_nothing(distribution: str, tmp_path: Path) -> None:
    result = run("mine", "--kind", "solver", "--distribution", distribution)
    assert result.exit_code == 1
    assert distribution in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "odekit-mine"
    folder.mkdir()
    assert run("mine", "--kind", "solver").exit_code == 0
    before = contents(folder)
    result = run("mine", "--kind", "trace")
    assert result.exit_code == 1
    assert "odekit-mine is not empty, and is left as it is. Choose another folder with --out." in result.stderr
    (tmp_path / "notes").write_text("mine")
    result = run("mine", "--kind", "trace", "--out", "notes")
    assert result.exit_code == 1
    assert "notes is a file" in result.stderr
    assert contents(folder) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "odekit-mine"]


def test_what_goes_wrong_on_the_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_text

    def failing(path: Path, *arguments: object, **options: object) -> int:
        if path.name == "my_own.py":
            raise OSError(28, "No space left on device")
        return write(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", failing)
    result = run("my-own", "--kind", "solver")
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_plugins_is_no_use_here(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("1 / 0")
    result = CliRunner().invoke(main, ["--plugin", str(file), "new", "mine", "--kind", "solver"], prog_name="odekit")
    assert result.exit_code != 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.py"]


def test_names_are_checked_where_they_are_made() -> None:
    with pytest.raises(InputError):
        Names("a b", "odekit-mine")
