"""The docs site is whole: a page for every hook, a place for every name, the commands as they are, a strict build."""

from __future__ import annotations

import importlib.util
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT, python_blocks

from odekit.registry import KINDS, catalog


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.hook)
def test_a_hook_has_its_page_with_two_examples(kind) -> None:
    page = Path("docs/plugins") / f"{kind.hook}.md"
    assert (ROOT / page).exists()
    assert f"{kind.hook}(register: " in (ROOT / page).read_text(encoding="utf-8")
    assert len(python_blocks(page)) >= 2


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
