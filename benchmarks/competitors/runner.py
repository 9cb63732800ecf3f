"""What a worker holds: a workload in the hands of one competitor. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

Calls = tuple[int, int]
"""Of f in the forward solve, and of f in the backward pass."""


class Runner(Protocol):
    """A workload, ready to run.

    Attributes:
        versions: of the libraries that do the work.
    """

    versions: dict[str, str]

    def once(self) -> None:
        """One pass, to its very end: what is timed."""
        ...

    def answer(self, to: Path) -> Calls:
        """One pass whose answer is written to a ``.npy`` file, and how often it called f."""
        ...
