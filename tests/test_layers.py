"""Imports run one way: cli -> runner -> solving -> gradients -> core -> errors; plugins see core and gradients only."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FACADE = "odekit"

_BELOW_SOLVING = {"gradients", "registry", "core", "errors"}
_BELOW_RUNNER = {FACADE, "solving", "neural_ode", *_BELOW_SOLVING}

ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "core": {"errors"},
    "gradients": {"core", "errors"},
    "registry": {"core", "errors"},
    "solving": _BELOW_SOLVING,
    "neural_ode": {"solving", *_BELOW_SOLVING},
    "compat": {"solving", *_BELOW_SOLVING},
    "runner": _BELOW_RUNNER,
    "testing": {"solving", *_BELOW_SOLVING},
    "cli": {"runner", "testing", *_BELOW_RUNNER},
    "__main__": {"cli"},
    FACADE: {"solving", "neural_ode", *_BELOW_SOLVING},
}
"""What each layer may import besides itself. A layer is a module or package right inside odekit; FACADE is the
package's own ``__init__``."""

PLUGINS_MAY = {FACADE, "errors", "core", "gradients"}


def _sources(folder: str) -> dict[str, Path]:
    """Every module below a folder of import packages, by its dotted name."""
    base = ROOT if folder == "odekit" else ROOT / folder
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        parts = path.relative_to(base).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


OURS = _sources("odekit")
PLUGINS = _sources("plugins")
MODULES = {**OURS, **PLUGINS}


def _is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _statements(node: ast.AST, into_functions: bool) -> Iterator[ast.AST]:
    """All nodes that run, without what is there for type checkers; function bodies only if asked for."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt) and _is_type_checking(child):
            continue
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and not into_functions:
            continue
        yield child
        yield from _statements(child, into_functions)


def _imports(module: str, source: str, into_functions: bool) -> set[str]:
    """The modules that ``module`` imports: for ``from package import name`` the submodule where there is one."""
    found = set()
    for node in _statements(ast.parse(source), into_functions):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import; write the absolute name"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else str(node.module))
    return found


def _layer(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else FACADE


def violations(module: str, source: str) -> list[str]:
    """The imports that run against the arrows."""
    package = module.partition(".")[0]
    wrong = []
    for target in sorted(_imports(module, source, into_functions=True)):
        target_package = target.partition(".")[0]
        if target_package == "odekit":
            allowed = ARROWS[_layer(module)] | {_layer(module)} if package == "odekit" else PLUGINS_MAY
            if _layer(target) not in allowed:
                wrong.append(f"{module} imports {target}")
        elif target_package.startswith("odekit_") and target_package != package:
            wrong.append(f"{module} imports {target}")
    return wrong


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_arrows(module: str) -> None:
    assert violations(module, MODULES[module].read_text()) == []


def test_every_layer_has_its_arrows() -> None:
    assert {_layer(module) for module in OURS} <= set(ARROWS)
    assert len(PLUGINS) > 5, "the plugins were not found"


def test_the_arrows_themselves_have_no_cycle() -> None:
    list(graphlib.TopologicalSorter(ARROWS).static_order())


def test_the_hooks_import_pluggy_and_nothing_of_odekit() -> None:
    imported = _imports("odekit.registry.hooks", OURS["odekit.registry.hooks"].read_text(), into_functions=True)
    assert imported == {"__future__", "collections.abc", "typing", "pluggy"}


def test_only_the_registry_imports_pluggy_and_importlib_metadata() -> None:
    users = {
        module
        for module, path in MODULES.items()
        for target in _imports(module, path.read_text(), into_functions=True)
        if target.partition(".")[0] in ("pluggy", "importlib_metadata")
    }
    assert {_layer(module) for module in users} == {"registry"}


def test_only_the_command_line_imports_click() -> None:
    users = {
        module
        for module, path in MODULES.items()
        if "click" in {t.partition(".")[0] for t in _imports(module, path.read_text(), into_functions=True)}
    }
    assert {_layer(module) for module in users} == {"cli"}


def _graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Who imports whom while being imported. Importing a module also imports the packages around it, except those
    around the importer, which are on their way already."""
    graph = {}
    for module, source in sources.items():
        edges = set()
        for target in _imports(module, source, into_functions=False):
            parts = target.split(".")
            edges.update(".".join(parts[: i + 1]) for i in range(len(parts)))
        graph[module] = {e for e in edges & set(sources) if e != module and not f"{module}.".startswith(f"{e}.")}
    return graph


def cycle(sources: dict[str, str]) -> list[str]:
    """A cycle of imports at module level, or nothing."""
    try:
        list(graphlib.TopologicalSorter(_graph(sources)).static_order())
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_there_is_no_import_cycle() -> None:
    assert cycle({module: path.read_text() for module, path in MODULES.items()}) == []


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("odekit.core.integrate", "import odekit", True),
        ("odekit.core.integrate", "def f():\n    from odekit.registry import catalog", True),
        ("odekit.core.integrate", "from odekit import gradients", True),
        ("odekit.core.integrate", "import odekit_solvers.explicit", True),
        ("odekit.core.integrate", "from odekit.errors import InputError", False),
        ("odekit.core.integrate", "if TYPE_CHECKING:\n    from odekit.registry import Catalog", False),
        ("odekit.errors", "from odekit.core.solution import Status", True),
        ("odekit.gradients.adjoint", "from odekit.solving import solve", True),
        ("odekit.solving", "from odekit.neural_ode import NeuralODE", True),
        ("odekit.runner.train", "from odekit.cli.main import main", True),
        ("odekit_models.ffjord", "from odekit.runner.train import train", True),
        ("odekit_models.ffjord", "from odekit.registry import catalog", True),
        ("odekit_models.ffjord", "import odekit_traces.estimators", True),
        (
            "odekit_models.ffjord",
            "import odekit\nimport odekit_models.layers\nfrom odekit.core import protocols",
            False,
        ),
    ],
)
def test_the_check_of_arrows_can_fail(module: str, source: str, wrong: bool) -> None:
    assert bool(violations(module, source)) == wrong


def test_the_check_of_cycles_can_fail() -> None:
    there, back = "odekit.errors", "odekit.core.solution"
    assert cycle({there: f"import {back}", back: f"from {there} import nearest"})
    assert not cycle({there: f"import {back}", back: f"def f():\n    import {there}"})
    assert not cycle({there: f"if TYPE_CHECKING:\n    import {back}", back: f"import {there}"})
    assert cycle({"odekit.core": f"import {back}", there: "import odekit.core", back: f"import {there}"})
