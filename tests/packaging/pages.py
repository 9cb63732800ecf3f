"""The Markdown pages of the repository, and what can be checked in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCED = re.compile(r"^```(?P<language>[^\n]*)\n(?P<body>.*?)^```\s*?$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(?P<title>.+?) *$", re.MULTILINE)


def pages() -> list[Path]:
    """Every page, from the root."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("contrib/*/*.md")]
    return sorted(page.relative_to(ROOT) for page in found)


def python_blocks(page: Path) -> list[str]:
    """The code of a page that is marked as ```` ```python ````, in order; other languages are for reading only."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [block["body"] for block in _FENCED.finditer(text) if block["language"].strip() == "python"]


def links(page: Path) -> list[str]:
    """The targets of a page's links that lead somewhere within the repository."""
    prose = _FENCED.sub("", (ROOT / page).read_text(encoding="utf-8"))
    targets = [link["target"] for link in _LINK.finditer(prose)]
    return [target for target in targets if not re.match(r"[a-z][a-z+.-]*:", target)]


def anchors(page: Path) -> set[str]:
    """What ``#...`` may name in a page: its headings, as code hosts spell them."""
    prose = _FENCED.sub("", (ROOT / page).read_text(encoding="utf-8"))
    titles = (heading["title"].lower() for heading in _HEADING.finditer(prose))
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def drawn_tree(page: Path) -> set[Path]:
    """The paths in a page's drawing of the repository: the block in which something stands at ``odekit/``."""
    text = (ROOT / page).read_text(encoding="utf-8")
    (drawing,) = (
        block["body"] for block in _FENCED.finditer(text) if re.search("^odekit/", block["body"], re.MULTILINE)
    )
    paths, above = set(), [Path()]
    for line in drawing.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        path = above[depth] / line.split()[0]
        above[depth + 1 :] = [path]
        paths.add(path)
    return paths
