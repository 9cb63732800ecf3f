"""The pages keep their word: links lead somewhere, and the Python in them runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT, anchors, drawn_tree, links, pages, python_blocks

from odekit.registry import catalog

# The code of contrib/ needs the distribution that it describes; test_packaging.py runs it where that is installed.
RUNNABLE = [page for page in pages() if page.parts[0] != "contrib" and python_blocks(page)]


@pytest.mark.parametrize("page", pages(), ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        there = Path(os.path.normpath(page.parent / path)) if path else page
        if not (ROOT / there).exists() or (anchor and anchor not in anchors(there)):
            broken.append(target)
    assert not broken, f"{page} has links to nothing: {broken}"


ONE_BY_ONE = """
import json, os, sys, tempfile, traceback
import torch, odekit

failed = []
for page, blocks in json.load(sys.stdin).items():
    child = os.fork()
    if child == 0:
        os.chdir(tempfile.mkdtemp(dir=os.getcwd()))
        try:
            exec(compile(blocks, page, "exec"), {"__name__": "__main__"})
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(page)
sys.exit(f"failed: {failed}" if failed else 0)
"""
"""Runs pages, each in a process and a folder of its own; what all of them import is imported once."""


def test_the_python_of_the_pages_runs(tmp_path: Path) -> None:
    """All blocks of a page, one after the other, in one interpreter and an empty folder."""
    blocks = {str(page): "\n".join(python_blocks(page)) for page in RUNNABLE}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", ONE_BY_ONE],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        input=json.dumps(blocks),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_the_design_page_draws_the_tree_as_it_is() -> None:
    drawn = drawn_tree(Path("docs/design.md"))
    modules = {path.relative_to(ROOT) for path in (ROOT / "odekit").rglob("*.py") if not path.name.startswith("__")}
    gone = {path for path in drawn if not (ROOT / path).exists()}
    assert (modules - drawn, gone) == (set(), set()), "not drawn, and drawn but not there"


def test_the_readme_names_all_that_is_registered() -> None:
    table = (ROOT / "README.md").read_text().partition("## What is registered")[2]
    missing = [
        f"{entry.kind} {entry.name}"
        for entry in catalog().entries()
        if entry.distribution == "odekit" and f"`{entry.name}`" not in table
    ]
    assert not missing
