"""A broken plugin is one line of text, and everything else works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_site import Site, solver_source

from odekit.errors import NameNotFound, PluginError
from odekit.registry import PROTOCOL, Catalog, load

STUB = solver_source("first", "second")

BROKEN = {
    "import error": ("import no_such_module_at_all", ["no_such_module_at_all", "Install what it imports"]),
    "syntax error": ("def (:", ["SyntaxError", "line 1", "another Python"]),
    "exception at import": ("raise ValueError('one\\ntwo')", ["ValueError: one two", "ODEKIT_LOAD_PLUGINS"]),
    "exit at import": ("import sys; sys.exit('bye')", ["SystemExit: bye", "ODEKIT_LOAD_PLUGINS"]),
    "odd exception at import": ("class Odd(BaseException): pass\nraise Odd('ho')", ["Odd: ho", "ODEKIT_LOAD_PLUGINS"]),
    "misspelt hook": (
        STUB.replace("def register_solvers", "def register_solver"),
        ["no hook is called 'register_solver'", "Did you mean 'register_solvers'?"],
    ),
    "unmarked hook": (STUB.replace("@odekit.hookimpl", ""), ["register_solvers is not marked", "@odekit.hookimpl"]),
    "wrong argument": (
        STUB.replace("register_solvers(register)", "register_solvers(registry)"),
        ["register_solvers(registry) has wrong arguments", "Write it as register_solvers(register)"],
    ),
    "no argument": (
        STUB.replace("register_solvers(register)", "register_solvers()"),
        ["register_solvers() has wrong arguments"],
    ),
    "returns a list": (
        STUB.replace("    register(Stub0)\n    register(Stub1)", "    return [Stub0, Stub1]"),
        ["register_solvers returned a list", "Call register(...)"],
    ),
    "no hook": ("class Kutta3: pass", ["it has no hook", "@odekit.hookimpl"]),
    "exception while registering": (
        STUB.replace("    register(Stub1)", "    raise RuntimeError('half way')"),
        ["RuntimeError: half way", "ODEKIT_LOAD_PLUGINS"],
    ),
    "not a solver": (
        STUB.replace("    register(Stub1)", "    register(dict)"),
        ["dict is not a solver", "odekit.core.protocols.ODESolver"],
    ),
    "no name": (STUB.replace("    register(Stub1)", "    register(Stub)"), ["Stub has no attribute 'name'", "(str)"]),
    "bad name": (STUB.replace("'second'", "'a:b'"), ["Stub1 has the name 'a:b'", "Rename it"]),
    "no order": (STUB.replace("    order = 1\n", ""), ["Stub0 has no attribute 'order'", "(int)"]),
    "order of a wrong type": (STUB.replace("order = 1", "order = '1'"), ["'order' of type str", "must be int"]),
    "abstract method": (STUB.replace("def step", "def stride"), ["Stub0 leaves step of ODESolver open"]),
    "same name twice": (STUB.replace("'second'", "'first'"), ["registers the solver 'first' twice", "Rename"]),
    "a later protocol": (
        f"ODEKIT_PROTOCOL = 2\n{STUB}",
        ["made for version 2 of the plugin protocol (ODEKIT_PROTOCOL)", "this odekit has version 1", "Update odekit."],
    ),
    "an earlier protocol": (
        f"ODEKIT_PROTOCOL = 0\n{STUB}",
        ["made for version 0", "Update the plugin, or uninstall it."],
    ),
    "a protocol that is no number": (
        f"ODEKIT_PROTOCOL = '1'\n{STUB}",
        ["ODEKIT_PROTOCOL is '1'", "write it as a whole number, 1"],
    ),
    "another exception in an attribute": (
        STUB.replace("    order = 1\n", "    @property\n    def order(self): raise OSError('no')\n")
        .replace("register(Stub1)", "register(Stub1())")
        .replace("register(Stub0)", "register(Stub0())"),
        ["OSError: no", "ODEKIT_LOAD_PLUGINS"],
    ),
    "catalog at import": (
        "from odekit.registry import load\nload()",
        ["the catalog was asked for while it is being made", "move that into a function"],
    ),
}


def names(catalog: Catalog) -> list[str]:
    return [entry.qualified for entry in catalog.entries()]


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_one_line(site: Site, case: str) -> None:
    source, fragments = BROKEN[case]
    site.add("aa-good", "1.0", {"good": "good_stub"}, {"good_stub": solver_source("good")})
    site.add("bad-dist", "2.5", {"wrecked": "bad_stub"}, {"bad_stub": source})
    site.add("zz-good", "1.0", {"fine": "fine_stub"}, {"fine_stub": solver_source("fine")})
    catalog = site.load()
    [line] = catalog.problems
    assert "\n" not in line
    for fragment in ("plugin 'wrecked' (bad_stub) of bad-dist 2.5: ", *fragments):
        assert fragment in line
    assert names(catalog) == ["odekit:euler", "zz-good:fine", "aa-good:good"]
    assert {p.name: p.state for p in catalog.plugins} == {
        "own": "loaded", "good": "loaded", "wrecked": "broken", "fine": "loaded",
    }  # fmt: skip
    with pytest.raises(NameNotFound, match="1 plugin could not be loaded; `odekit list plugins` says why"):
        catalog.get("solver", "first")


@pytest.mark.parametrize("case", BROKEN)
def test_strict_raises_instead(site: Site, case: str) -> None:
    source, fragments = BROKEN[case]
    site.add("bad-dist", "2.5", {"wrecked": "bad_stub"}, {"bad_stub": source})
    with pytest.raises(PluginError) as raised:
        site.load(ODEKIT_STRICT="1")
    for fragment in fragments:
        assert fragment in str(raised.value)
    assert raised.value.__cause__ is not None
    assert site.load(ODEKIT_STRICT="0").problems == [str(raised.value)]


def test_its_own_protocol_is_none_to_complain_about(site: Site) -> None:
    site.add("fine", "1", {"fine": "stub_q"}, {"stub_q": f"ODEKIT_PROTOCOL = {PROTOCOL}\n{solver_source('fine')}"})
    assert site.load().problems == []


def test_the_package_can_tell_the_protocol_and_so_why_a_module_fails(site: Site) -> None:
    package = site.folder / "stub_package"
    package.mkdir()
    (package / "__init__.py").write_text("ODEKIT_PROTOCOL = 2\n")
    (package / "solvers.py").write_text("from odekit.core.protocols import WhatIsNotThereYet\n")
    site.add("ahead", "5", {"ahead": "stub_package.solvers"})
    [line] = site.load().problems
    assert line.startswith("plugin 'ahead' (stub_package.solvers) of ahead 5: it is made for version 2 ")
    assert line.endswith("Update odekit.")


def test_an_entry_point_without_its_attribute(site: Site) -> None:
    site.add("bad-dist", "1", {"gone": "stub_a:plugins"}, {"stub_a": "plugin = 1"})
    [line] = site.load().problems
    assert "plugin 'gone' (stub_a:plugins) of bad-dist 1: stub_a has no 'plugins'. Did you mean 'plugin'?" in line


def test_an_entry_point_that_is_no_reference(site: Site) -> None:
    site.add("bad-dist", "1", {"odd": "not-a-module"})
    [line] = site.load().problems
    assert "plugin 'odd' (not-a-module) of bad-dist 1: " in line


def test_an_entry_point_can_name_an_object(site: Site) -> None:
    source = (
        solver_source("boxed")
        .replace("@odekit", "class Box:\n  @odekit")
        .replace(
            "def register_solvers(register):\n    register", "  def register_solvers(self, register):\n      register"
        )
    )
    site.add("box", "1", {"box": "stub_b:box"}, {"stub_b": f"{source}\nbox = Box()\n"})
    catalog = site.load()
    assert catalog.problems == []
    assert catalog.entry("solver", "boxed").distribution == "box"


def test_ctrl_c_passes_and_the_next_load_works(site: Site) -> None:
    site.add("slow", "1", {"slow": "stub_c"}, {"stub_c": "raise KeyboardInterrupt"})
    with pytest.raises(KeyboardInterrupt):
        site.load()
    assert names(site.load(ODEKIT_LOAD_PLUGINS="")) == ["odekit:euler"]


def test_a_name_twice_in_one_distribution(site: Site) -> None:
    modules = {"stub_d": solver_source("same"), "stub_e": solver_source("other", "same")}
    site.add("twice", "3", {"one": "stub_d", "two": "stub_e"}, modules)
    catalog = site.load()
    [line] = catalog.problems
    assert "plugin 'two' (stub_e) of twice 3: twice registers the solver 'same' twice" in line
    assert "'one' and 'two'" in line
    assert names(catalog) == ["odekit:euler", "twice:same"]


def test_one_entry_point_name_in_two_distributions(site: Site) -> None:
    site.add("left", "1", {"solvers": "stub_f"}, {"stub_f": solver_source("l")})
    site.add("right", "2", {"solvers": "stub_g"}, {"stub_g": solver_source("r")})
    catalog = site.load()
    [line] = catalog.problems
    assert "'solvers' is the name of an entry point in left 1 and in right 2" in line
    assert "rename" in line
    assert names(catalog) == ["odekit:euler", "left:l", "right:r"]
    with pytest.raises(PluginError, match="left 1 and in right 2"):
        site.load(ODEKIT_STRICT="1")


def test_strict_raises_on_a_clash_of_names(site: Site) -> None:
    site.add("rival", "1", {"rival": "stub_h"}, {"stub_h": solver_source("euler")})
    with pytest.raises(PluginError, match="'rival:euler'"):
        site.load(ODEKIT_STRICT="1")


def test_first_party_names_are_never_taken_over(site: Site) -> None:
    site.add("aaa", "1", {"aaa": "stub_i"}, {"stub_i": solver_source("euler")})
    catalog = site.load()
    assert catalog.entry("solver", "euler").distribution == "odekit"
    assert catalog.entry("solver", "aaa:euler").distribution == "aaa"
    [line] = catalog.problems
    assert line == ("plugin 'aaa' of aaa 1: odekit has a solver 'euler' already. Write 'aaa:euler' for the one of aaa.")


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        ("", ["odekit:euler"]),
        ("Two.Words", ["odekit:euler", "two-words:w"]),
        (" one , two_words,", ["odekit:euler", "one:o", "two-words:w"]),
    ],
)
def test_choosing_what_to_load(site: Site, wish: str, expected: list[str]) -> None:
    site.add("one", "1", {"one": "stub_j"}, {"stub_j": solver_source("o")})
    site.add("two-words", "1", {"two": "stub_k"}, {"stub_k": solver_source("w")})
    site.add("wreck", "1", {"wreck": "stub_l"}, {"stub_l": "raise ValueError"})
    catalog = site.load(ODEKIT_LOAD_PLUGINS=wish)
    assert names(catalog) == expected
    assert catalog.problems == []
    assert "stub_l" not in sys.modules
    left_out = {p.distribution for p in catalog.plugins if p.state == "left out"}
    assert left_out == {"one", "two-words", "wreck"} - {name.partition(":")[0] for name in expected}


def test_choosing_what_is_not_there(site: Site) -> None:
    site.add("kutta", "1", {"one": "stub_m"}, {"stub_m": solver_source("o")})
    [line] = site.load(ODEKIT_LOAD_PLUGINS="kuta").problems
    assert "ODEKIT_LOAD_PLUGINS asks for 'kuta', which brings no odekit plugin. Did you mean 'kutta'?" in line


def test_what_plugins_print_goes_to_stderr(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    source = "print('at import')\n" + solver_source("loud") + "    print('at registration')\n"
    site.add("loud", "1", {"loud": "stub_n"}, {"stub_n": source})
    site.load()
    assert capsys.readouterr() == ("", "at import\nat registration\n")


def test_the_first_distribution_on_the_path_hides_others_of_its_name(site: Site) -> None:
    site.add("same", "1", {"same": "stub_o"}, {"stub_o": solver_source("kept")})
    later = site.folder / "later"
    later.mkdir()
    info = site.add("Same", "2", {"same": "stub_o"})
    info.rename(later / info.name)
    catalog = load([str(site.folder), str(later)], {})
    assert [(p.distribution, p.version) for p in catalog.plugins] == [("odekit", "0.1.0"), ("same", "1")]


def test_what_hides_a_distribution_need_not_have_plugins(site: Site) -> None:
    site.add("same", "1", {"same": "stub_o"}, {"stub_o": solver_source("hidden")})
    earlier = site.folder / "earlier"
    earlier.mkdir()
    info = site.folder / "same-2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: same\nVersion: 2\n")
    info.rename(earlier / info.name)
    assert [p.distribution for p in load([str(earlier), str(site.folder)], {}).plugins] == ["odekit"]
    assert [p.distribution for p in load([str(site.folder), str(earlier)], {}).plugins] == ["odekit", "same"]


def test_damaged_metadata(site: Site) -> None:
    (site.add("leftover", "1", {}) / "METADATA").unlink()
    (site.add("hurt", "1", {"hurt": "stub_p"}, {"stub_p": solver_source("hurt")}) / "METADATA").unlink()
    (site.add("unreadable", "1", {}) / "entry_points.txt").write_text("[odekit]\nno equals sign\n")
    (site.folder / "leftover-1.dist-info" / "entry_points.txt").unlink()
    (site.add("bytes", "1", {}) / "entry_points.txt").write_bytes(b"\xff\xfe")
    catalog = site.load()
    assert names(catalog) == ["odekit:euler"]
    hurt, coded, unreadable = sorted(catalog.problems)
    assert coded.startswith("the entry points of bytes cannot be read: UnicodeDecodeError")
    assert hurt.startswith("the entry points of a distribution in ")
    assert hurt.endswith("its metadata have no name or version. Reinstall it.")
    assert unreadable.startswith("the entry points of unreadable cannot be read: ")


def test_odekit_that_is_not_installed_says_so(tmp_path: Path) -> None:
    [line] = load([str(tmp_path)], {}).problems
    assert "odekit is not installed as a distribution" in line
    assert "pip install -e ." in line


def test_the_registry_without_plugins_needs_no_torch() -> None:
    code = """
import sys
from odekit.registry import Catalog, catalog, load
Catalog().entries("solver")
load([], {})
import odekit.registry.hooks
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_command_line_lives_with_a_broken_plugin(site: Site) -> None:
    site.add("bad-dist", "2.5", {"wrecked": "bad_stub"}, {"bad_stub": "print('noise')\nimport no_such_module_at_all"})
    path = os.pathsep.join([str(site.folder), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-m", "odekit", "list", "plugins"],
        env={**os.environ, "PYTHONPATH": path, "ODEKIT_LOAD_PLUGINS": "bad-dist"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "noise" not in done.stdout
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line}
    assert rows["own"][:2] == ["loaded", "odekit"]
    assert rows["wrecked"] == ["broken", "bad-dist", "2.5", "bad_stub"]
    [line] = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert "plugin 'wrecked' (bad_stub) of bad-dist 2.5: ModuleNotFoundError" in line
    assert line.removeprefix("warning: ") in done.stdout.splitlines()
