"""Finding a dataset's files, and saying where they were looked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from odekit.errors import DataError

HINT = "Set ODEKIT_DATA to the folder that holds it."


def candidates(folder: Path | None, dataset: str, file: str) -> list[Path]:
    """Where ``file`` may lie: in a folder of the dataset's own inside ``folder``, or in ``folder`` itself."""
    return [] if folder is None else [folder / dataset / file, folder / file]


def first_existing(paths: Iterable[Path]) -> Path | None:
    """The first path that is a file."""
    return next((path for path in paths if path.is_file()), None)


def places(paths: Iterable[Path]) -> str:
    """The paths as the words of an error message."""
    return " and ".join(map(str, paths)) or "no folder (none is set)"


def verify(path: Path, sha256: str) -> Path:
    """The path, if the file's content is the expected one.

    Raises:
        DataError: it is not.
    """
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise DataError(f"{path} is damaged: its SHA-256 is {found}, expected {sha256}. Remove it or replace it.")
    return path
