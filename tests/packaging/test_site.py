"""The docs site is whole: a page for every hook, a place for every name, the commands as they are, a strict build."""

from __future__ import annotations

import importlib.util
import inspect
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT, python_blocks

from odekit.registry import KINDS, catalog, hooks
from odekit.registry.kinds import Kind
from odekit.testing import examine

HOOKS = sorted(name for name, value in vars(hooks).items() if hasattr(value, f"{hooks.PROJECT}_spec"))


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_has_its_page_with_its_signature_and_two_examples(hook: str) -> None:
    page = Path("docs/plugins") / f"{hook}.md"
    signature, _, bring = (inspect.getdoc(getattr(hooks, hook)) or "").split("\n", 2)
    title, block, *_ = (ROOT / page).read_text(encoding="utf-8").split("\n\n")
    assert title == f"# {hook}"
    assert block == f"```text\n{signature.strip('`')}\n```"
    assert bring.startswith("Bring ")
    assert f"]({hook}.md)" in (ROOT / "docs/plugins/index.md").read_text(encoding="utf-8")
    assert len([block for block in python_blocks(page) if "    name = " in block]) >= 2


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(
            kind, id=kind.hook, marks=[pytest.mark.slow] if kind.name in ("solver", "gradient", "trace") else []
        )
        for kind in KINDS.values()
    ],
)
def test_the_examples_of_a_hook_pass_their_checks(kind: Kind) -> None:
    made: dict[str, object] = {"__name__": f"example_of_{kind.hook}"}
    exec("\n".join(python_blocks(Path("docs/plugins") / f"{kind.hook}.md")), made)
    examples = [
        x for x in made.values() if isinstance(x, type) and x.__module__ == made["__name__"] and "name" in vars(x)
    ]
    assert len(examples) >= 2
    for example in examples:
        report = examine(kind.name, example.name, example)
        assert report.verdict.value == "passed", report.failures


def test_the_pages_name_all_that_is_registered() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md"))
    own = [entry for entry in catalog().entries() if entry.distribution == "odekit"]
    assert [entry.name for entry in own if f"`{entry.name}`" not in text] == []


def test_the_commands_page_is_as_the_commands_say() -> None:
    script = runpy.run_path(str(ROOT / "docs/scripts/commands.py"))
    assert script["PAGE"].read_text(encoding="utf-8") == script["page"](), "run python docs/scripts/commands.py"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed: pip install '.[docs]'")
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    remote = re.compile(r"""<(?:script|img|iframe)[^>]*\ssrc="?https?:|<link[^>]*rel="?stylesheet[^>]*href="?https?:""")
    pages = list((tmp_path / "site").rglob("*.html"))
    assert pages
    assert [page.name for page in pages if remote.search(page.read_text(encoding="utf-8"))] == []
