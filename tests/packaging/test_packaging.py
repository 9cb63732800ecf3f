"""What is shipped: one complete wheel that works in another environment, next to a stranger's plugin."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from pages import ROOT, python_blocks

import odekit
from odekit.registry import KINDS

PLUGINS = ROOT / "plugins"
TEMPLATE = ROOT / "contrib" / "template"
CONTRIBUTED = {folder.parent.name: folder.parent for folder in sorted(ROOT.glob("contrib/*/pyproject.toml"))}
"""The folders of the distributions in contrib/, by their names there."""


@functools.cache
def project(folder: Path = ROOT) -> dict:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_version_is_the_installed_one() -> None:
    assert importlib.metadata.version("odekit") == odekit.__version__


# The pinned versions


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {name: Version(version) for name, version in pairs}


def test_constraints_pin_every_dependency_within_its_range() -> None:
    direct = [*project()["dependencies"], *project()["optional-dependencies"]["dev"]]
    pinned = pins()
    for requirement in map(Requirement, direct):
        name = canonicalize_name(requirement.name)
        assert name in pinned
        assert pinned[name] in requirement.specifier


def test_constraints_fit_any_machine() -> None:
    """No editable or local version, and every name as tools compare it, once."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    names = [line.split("==")[0] for line in lines if not line.startswith("#")]
    assert names == sorted({canonicalize_name(name) for name in names})
    assert [name for name, version in pins().items() if version.local] == []


# The plugins


def plugin_modules() -> dict[str, Path]:
    """Every module in plugins/, by its import name."""
    modules = {}
    for path in PLUGINS.rglob("*.py"):
        parts = path.relative_to(PLUGINS).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def imported_names(path: Path) -> Iterator[str]:
    """What a module imports, anywhere in it; for ``from a import b`` both ``a`` and ``a.b``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def reached_from(names: set[str], modules: dict[str, Path]) -> set[str]:
    """The given modules, the packages around them, and all that they import in turn."""
    reached: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name in modules and name not in reached:
            reached.add(name)
            todo += [name.rpartition(".")[0], *imported_names(modules[name])]
    return reached


def test_entry_points_name_modules_that_are_there() -> None:
    named = set(project()["entry-points"]["odekit"].values())
    assert named <= plugin_modules().keys()


def test_every_plugin_module_is_reached_by_an_entry_point() -> None:
    modules = plugin_modules()
    named = set(project()["entry-points"]["odekit"].values())
    assert modules.keys() - reached_from(named, modules) == set()


@pytest.mark.parametrize("folder", CONTRIBUTED)
def test_nothing_of_odekit_imports_a_contributed_distribution(folder: str) -> None:
    packages = {package.name for package in (CONTRIBUTED[folder] / "src").iterdir()}
    sources = [*(ROOT / "odekit").rglob("*.py"), *PLUGINS.rglob("*.py")]
    guilty = [path for path in sources if packages & {name.split(".")[0] for name in imported_names(path)}]
    assert packages
    assert guilty == []


# The wheel, here and elsewhere


def run(*command: str | Path, cwd: Path) -> str:
    """The output of a command that must succeed, hears nothing of this environment and downloads nothing."""
    ours = re.compile("PYTHON|PIP_|ODEKIT_|PYTEST_|VIRTUAL_ENV")
    env = {name: value for name, value in os.environ.items() if not ours.match(name)}
    env |= {"OMP_NUM_THREADS": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "COLUMNS": "200"}
    result = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout}{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution as it would be for a release."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def link_dependencies(folder: Path) -> None:
    """Links to all that is installed here except odekit and what belongs to it."""
    folder.mkdir()
    places = [Path(place) for place in sys.path if place.endswith(("site-packages", "dist-packages"))]
    for item in (item for place in places for item in place.iterdir()):
        link = folder / item.name
        if "odekit" not in item.name and item.suffix != ".pth" and not link.exists():
            link.symlink_to(item)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """The Python of a fresh environment with odekit's wheel; its dependencies are links, so nothing is downloaded."""
    folder = tmp_path_factory.mktemp("elsewhere")
    env, links = folder / "env", folder / "links"
    venv.create(env, symlinks=True)
    link_dependencies(links)
    places = {"base": str(env), "platbase": str(env)}
    Path(sysconfig.get_path("purelib", "venv", places), "links.pth").write_text(f"{links}\n", encoding="utf-8")
    python = Path(sysconfig.get_path("scripts", "venv", places), Path(sys.executable).name)
    run(python, "-m", "pip", "install", wheel, cwd=folder)
    return python


@pytest.mark.slow
def test_the_wheel_is_complete(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = f"odekit-{odekit.__version__}.dist-info"
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
        licence = archive.read(f"{info}/licenses/LICENSE").decode()
    sources = {f"odekit/{path.relative_to(ROOT / 'odekit').as_posix()}" for path in (ROOT / "odekit").rglob("*.py")}
    sources |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "odekit").rglob("*.txt")}
    sources |= {path.relative_to(PLUGINS).as_posix() for path in PLUGINS.rglob("*.py")}
    assert sources <= names
    assert "odekit/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"odekit", info, *(path.name for path in PLUGINS.glob("odekit_*"))}
    assert licence == (ROOT / "LICENSE").read_text(encoding="utf-8")
    for name, module in project()["entry-points"]["odekit"].items():
        assert f"{name} = {module}\n" in entry_points
    assert "odekit = odekit.cli.main:main" in entry_points


@pytest.mark.slow
def test_the_wheel_works_elsewhere(elsewhere: Path, tmp_path: Path) -> None:
    for package in ("odekit", "odekit_solvers"):
        home = run(elsewhere, "-c", f"import {package}; print({package}.__file__)", cwd=tmp_path)
        assert not Path(home.strip()).is_relative_to(ROOT)
    listed = json.loads(run(elsewhere, "-m", "odekit", "list", "--json", cwd=tmp_path))
    assert listed["problems"] == []
    assert {plugin["name"] for plugin in listed["plugins"]} == project()["entry-points"]["odekit"].keys()
    assert {entry["kind"] for entry in listed["entries"]} >= {"solver", "gradient", "trace", "model", "dataset"}
    assert {entry["distribution"] for entry in listed["entries"]} == {"odekit"}


SOLVE = """
import torch, odekit
solution = odekit.solve(lambda t, y: -y, torch.ones(2), torch.tensor([0.0, 1.0]), solver="kutta3", step_size=0.05)
assert torch.allclose(solution.ys[-1], torch.exp(torch.tensor(-1.0)), atol=1e-4), solution.ys
"""

GONE = """
import torch, odekit
try:
    odekit.solve(lambda t, y: -y, torch.ones(2), torch.tensor([0.0, 1.0]), solver="kutta3", step_size=0.05)
except odekit.errors.NameNotFound as error:
    print(error)
"""


@pytest.mark.slow
def test_a_third_party_solver_comes_and_goes(elsewhere: Path, tmp_path: Path) -> None:
    name, version = project(TEMPLATE)["name"], project(TEMPLATE)["version"]
    run(elsewhere, "-m", "pip", "install", "--no-build-isolation", TEMPLATE, cwd=tmp_path)
    try:
        listed = json.loads(run(elsewhere, "-m", "odekit", "list", "solvers", "--json", cwd=tmp_path))
        (entry,) = [entry for entry in listed["entries"] if entry["name"] == "kutta3"]
        assert (entry["distribution"], entry["version"]) == (name, version)
        run(elsewhere, "-c", SOLVE, cwd=tmp_path)
        run(elsewhere, "-W", "error", "-c", "\n".join(python_blocks(TEMPLATE / "README.md")), cwd=tmp_path)
        run(elsewhere, "-m", "pytest", "-p", "no:cacheprovider", TEMPLATE, cwd=tmp_path)
    finally:
        run(elsewhere, "-m", "pip", "uninstall", "--yes", name, cwd=tmp_path)
    assert "'kutta3'" in run(elsewhere, "-c", GONE, cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("folder", [name for name in CONTRIBUTED if name != "template"])
def test_a_contributed_distribution_comes_and_goes(elsewhere: Path, tmp_path: Path, folder: str) -> None:
    """It installs, lists, does what its README says, passes its own tests and its check, and leaves nothing behind."""
    place = CONTRIBUTED[folder]
    name, version = project(place)["name"], project(place)["version"]

    def brought() -> list[dict]:
        listed = json.loads(run(elsewhere, "-m", "odekit", "list", "--json", cwd=tmp_path))
        assert listed["problems"] == []
        return [entry for entry in listed["entries"] if entry["distribution"] == name]

    run(elsewhere, "-m", "pip", "install", "--no-build-isolation", place, cwd=tmp_path)
    try:
        assert {entry["version"] for entry in brought()} == {version}
        run(elsewhere, "-W", "error", "-c", "\n".join(python_blocks(place / "README.md")), cwd=tmp_path)
        beside_suites = [] if folder == "ralston" else ["-k", "not test_check"]
        run(elsewhere, "-m", "pytest", "-p", "no:cacheprovider", *beside_suites, place, cwd=tmp_path)
        run(elsewhere, "-m", "odekit", "check", name, cwd=tmp_path)
    finally:
        run(elsewhere, "-m", "pip", "uninstall", "--yes", name, cwd=tmp_path)
    assert brought() == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_odekit_new_writes_comes_and_goes(elsewhere: Path, tmp_path: Path) -> None:
    """For every kind: write, install, list, check, run its tests, uninstall."""
    names = {kind: f"my-{kind}" for kind in KINDS}
    for kind, name in names.items():
        run(elsewhere, "-m", "odekit", "new", name, "--kind", kind, cwd=tmp_path)
    folders = [tmp_path / f"odekit-{name}" for name in names.values()]
    editable = [word for folder in folders for word in ("-e", folder)]
    run(elsewhere, "-m", "pip", "install", "--no-build-isolation", *editable, cwd=tmp_path)
    try:
        listed = json.loads(run(elsewhere, "-m", "odekit", "list", "--json", cwd=tmp_path))
        found = {e["kind"]: (e["name"], e["distribution"]) for e in listed["entries"] if e["distribution"] != "odekit"}
        assert found == {kind: (name, f"odekit-{name}") for kind, name in names.items()}
        assert listed["problems"] == []
        checked = run(elsewhere, "-m", "odekit", "check", *(folder.name for folder in folders), cwd=tmp_path)
        assert checked.splitlines()[-1] == f"{len(KINDS)} passed"
        some = ["-k", "catalog or pure or frozen or shapes or build"]
        run(elsewhere, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *some, *folders, cwd=tmp_path)
    finally:
        run(elsewhere, "-m", "pip", "uninstall", "--yes", *(folder.name for folder in folders), cwd=tmp_path)
    listed = json.loads(run(elsewhere, "-m", "odekit", "list", "--json", cwd=tmp_path))
    assert {entry["distribution"] for entry in listed["entries"]} == {"odekit"}
