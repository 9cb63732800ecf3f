"""``odekit list``: what it shows, as text, as a table and as JSON."""

from __future__ import annotations

import io
import json
import types
from collections.abc import Callable
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import odekit
from odekit.cli.main import main
from odekit.core.protocols import GradientMethod, ODESolver, TraceEstimator
from odekit.registry import Catalog, Plugin


def stub(base: type, name: str, **attributes: Any) -> type:
    """A finished subclass of ``base``."""
    methods = dict.fromkeys(base.__abstractmethods__, lambda *_: None)
    return type("Stub", (base,), {"__doc__": "A stub. [bold]", "name": name, **methods, **attributes})


def plugin(*things: type) -> types.ModuleType:
    module = types.ModuleType("stubs")

    @odekit.hookimpl
    def register_solvers(register: Callable[[Any], None]) -> None:
        for thing in things:
            if issubclass(thing, ODESolver):
                register(thing)

    @odekit.hookimpl
    def register_gradient_methods(register: Callable[[Any], None]) -> None:
        for thing in things:
            if issubclass(thing, GradientMethod):
                register(thing)

    @odekit.hookimpl
    def register_trace_estimators(register: Callable[[Any], None]) -> None:
        for thing in things:
            if issubclass(thing, TraceEstimator):
                register(thing)

    @odekit.hookimpl
    def register_dynamics(register: Callable[[Any], None]) -> None:
        for thing in things:
            if not issubclass(thing, (ODESolver, GradientMethod, TraceEstimator)):
                register(thing)

    for hook in (register_solvers, register_gradient_methods, register_trace_estimators, register_dynamics):
        setattr(module, hook.__name__, hook)
    return module


class Spiral:
    """Turns."""

    name = "spiral"

    def __call__(self, t: Any, y: Any) -> Any:
        return y


PROBLEM = "plugin 'gone' (gone) of far-dist 3: ModuleNotFoundError: No module named 'gone'. Install what it imports."


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> Catalog:
    catalog = Catalog(
        problems=[PROBLEM],
        plugins=[
            Plugin("own", "own_module", "odekit", "0.1.0", "loaded"),
            Plugin("gone", "gone", "far-dist", "3", "broken"),
        ],
    )
    ours = plugin(
        stub(ODESolver, "rk4", order=4),
        stub(ODESolver, "pair", order=5, error_order=4, implicit=True),
        stub(GradientMethod, "direct", exact=True, memory="all of it"),
        stub(GradientMethod, "adjoint", exact=False, memory="little"),
        stub(TraceEstimator, "exact", exact=True),
        stub(TraceEstimator, "noisy", exact=False),
        Spiral,
    )
    catalog.register_plugin(ours, "odekit", "0.1.0")
    catalog.register_plugin(plugin(stub(ODESolver, "rk4", order=4)), "my-dist", "2.0")
    monkeypatch.setattr("odekit.cli.problems.catalog", lambda: catalog)
    return catalog


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["list", *arguments], prog_name="odekit")


def test_text_is_aligned_and_complete(stubs: Catalog) -> None:
    result = run()
    assert result.exit_code == 0
    header, *lines = result.stdout.splitlines()
    assert header.split() == ["NAME", "KIND", "FACTS", "FROM", "SUMMARY"]
    cells = [[line[start:end].strip() for start, end in columns(header)] for line in lines]
    assert cells == [
        ["pair", "solver", "order 5(4), adaptive, implicit", "odekit 0.1.0", "A stub. [bold]"],
        ["rk4", "solver", "order 4, fixed steps", "odekit 0.1.0", "A stub. [bold]"],
        ["my-dist:rk4", "solver", "order 4, fixed steps", "my-dist 2.0", "A stub. [bold]"],
        ["adjoint", "gradient", "of the ODE, memory little", "odekit 0.1.0", "A stub. [bold]"],
        ["direct", "gradient", "exact, memory all of it", "odekit 0.1.0", "A stub. [bold]"],
        ["exact", "trace", "exact", "odekit 0.1.0", "A stub. [bold]"],
        ["noisy", "trace", "estimate", "odekit 0.1.0", "A stub. [bold]"],
        ["spiral", "dynamics", "", "odekit 0.1.0", "Turns."],
    ]


def columns(header: str) -> list[tuple[int, int | None]]:
    starts = [header.index(title) for title in header.split()]
    return list(zip(starts, [*starts[1:], None], strict=True))


def test_problems_are_lines_on_stderr(stubs: Catalog) -> None:
    result = run("solvers")
    assert result.stderr.splitlines() == [f"warning: {line}" for line in stubs.problems]
    assert len(stubs.problems) == 2
    assert PROBLEM not in result.stdout


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("solver", ["pair", "rk4", "my-dist:rk4"]),
        ("solvers", ["pair", "rk4", "my-dist:rk4"]),
        ("gradient", ["adjoint", "direct"]),
        ("gradients", ["adjoint", "direct"]),
        ("trace", ["exact", "noisy"]),
        ("traces", ["exact", "noisy"]),
        ("dynamics", ["spiral"]),
    ],
)
def test_one_kind_in_the_singular_or_plural(stubs: Catalog, kind: str, names: list[str]) -> None:
    assert [line.split()[0] for line in run(kind).stdout.splitlines()] == ["NAME", *names]
    assert [entry["name"] for entry in json.loads(run(kind, "--json").stdout)["entries"]] == names


@pytest.mark.parametrize("kind", ["model", "models", "dataset", "datasets"])
def test_a_kind_without_members_says_so(stubs: Catalog, kind: str) -> None:
    result = run(kind)
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"no {kind.rstrip('s')}s are registered" in result.stderr


@pytest.mark.parametrize("kind", ["plugin", "plugins"])
def test_plugins_with_their_state(stubs: Catalog, kind: str) -> None:
    table, *problems = run(kind).stdout.split("\n\n")
    assert [line.split() for line in table.splitlines()] == [
        ["NAME", "STATE", "FROM", "MODULE"],
        ["own", "loaded", "odekit", "0.1.0", "own_module"],
        ["gone", "broken", "far-dist", "3", "gone"],
    ]
    assert [line.strip() for line in problems] == stubs.problems


def test_json_is_one_object_and_nothing_else(stubs: Catalog) -> None:
    result = run("--json")
    assert (result.exit_code, result.stderr) == (0, "")
    whole = json.loads(result.stdout)
    assert list(whole) == ["entries", "plugins", "problems"]
    assert whole["problems"] == stubs.problems
    assert whole["plugins"][1] == {
        "name": "gone", "value": "gone", "distribution": "far-dist", "version": "3", "state": "broken",
    }  # fmt: skip
    assert whole["entries"][0] == {
        "name": "pair",
        "kind": "solver",
        "summary": "A stub. [bold]",
        "facts": {"order": 5, "error_order": 4, "adaptive": True, "implicit": True, "structure": "general"},
        "distribution": "odekit",
        "version": "0.1.0",
        "entry_point": "stubs",
    }
    assert list(json.loads(run("solvers", "--json").stdout)) == ["entries", "problems"]
    assert list(json.loads(run("plugins", "--json").stdout)) == ["plugins", "problems"]


def test_an_unknown_kind_offers_the_nearest(stubs: Catalog) -> None:
    result = run("solvrs")
    assert result.exit_code == 2
    assert "'solvrs' is not a kind. Did you mean 'solvers'? Known: datasets, dynamics" in result.stderr
    assert result.stdout == ""


def test_a_terminal_gets_a_table(stubs: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with pytest.raises(SystemExit) as end:
        main(["list", "solvers"], prog_name="odekit")
    assert end.value.code == 0
    assert "\x1b[" in screen.getvalue()
    plain = click.unstyle(screen.getvalue())
    assert "order 5(4), adaptive, implicit" in plain
    assert "A stub. [bold]" in plain


def test_the_rule_of_auto_is_in_its_line() -> None:
    result = run("gradients")
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("auto")]
    assert all(word in line for word in ("``direct`` if", "memory", "explicit", "else ``checkpointed``", "budget"))
