"""A hook of the docs site: links to files outside docs/ become plain text, the README becomes the first page."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>\.\./[^)\s]+)\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """The text of a page with only such links as the site can follow."""
    folder = Path(page.file.src_uri).parent

    def rewritten(link: re.Match[str]) -> str:
        path = os.path.normpath(folder / link["target"].partition("#")[0])
        if not path.startswith(".."):
            return link[0]
        if path == "../README.md":
            return f"[{link['text']}]({os.path.relpath('index.md', folder)})"
        return link["text"]

    return _LINK.sub(rewritten, markdown)
