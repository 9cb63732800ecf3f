"""The pages keep their word: links lead somewhere, and the Python in them runs."""

from __future__ import annotations

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


@pytest.mark.parametrize("page", RUNNABLE, ids=str)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    """All blocks of a page, one after the other, in one interpreter and an empty folder."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(python_blocks(page))],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{page}:\n{result.stderr}"


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
