"""The folder of a run: one writer at a time, and a line for each evaluation.

==========================  ====================================================================
file                        content
==========================  ====================================================================
``spec.toml``               the experiment with all its settings; ``odekit run`` runs it again
``metrics.jsonl``           one JSON object a line, one line for each evaluation
``weights.safetensors``     the model in the end
``result.json``             the numbers of the end
``report.md``, ``figures``  for people
``checkpoints``             where ``odekit run --resume`` goes on
==========================  ====================================================================
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from odekit.errors import RunError
from odekit.runner.checkpoint import Checkpoints, write_atomically

if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[str]) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


_LOCK = ".lock"


class RunFolder:
    """A run's folder, locked while it is entered.

    Args:
        path: the folder.
        resumed: whether a run is to go on in it; otherwise it must be empty or not there yet.

    Raises:
        RunError: on entering, if another process holds it, or it is not in the state it should be in.
    """

    def __init__(self, path: Path, resumed: bool = False) -> None:
        self.path = path
        self.resumed = resumed
        self.checkpoints = Checkpoints(path / "checkpoints")
        self._lock: IO[str] | None = None

    @property
    def spec(self) -> Path:
        return self.path / "spec.toml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    def __enter__(self) -> RunFolder:
        if self.resumed and not self.spec.is_file():
            raise RunError(f"there is no run in {self.path} to resume: {self.spec} is missing")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / _LOCK).open("a")
        except OSError as error:
            raise RunError(f"{self.path} cannot be used as a run folder: {error.strerror}") from error
        try:
            self._take_lock(self._lock)
            if not self.resumed and self._content():
                raise RunError(
                    f"{self.path} is not empty. Go on with the run in it: odekit run --resume {self.path}; "
                    f"or start a new one in another folder: --out DIR"
                )
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._content():
            (self.path / _LOCK).unlink(missing_ok=True)
            self.path.rmdir()
        if self._lock is not None:
            self._lock.close()

    def write(self, name: str, content: bytes | str) -> None:
        """Write a file as a whole."""
        write_atomically(self.path / name, content.encode() if isinstance(content, str) else content)

    def record(self, metrics: dict[str, Any]) -> None:
        """Add a line to ``metrics.jsonl``."""
        line = json.dumps(finite(metrics), allow_nan=False)
        try:
            with self.metrics.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"{self.metrics} could not be written: {error.strerror}") from error

    def records(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl`` so far; one that was cut off is not a line."""
        if not self.metrics.is_file():
            return []
        lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def rewind(self, step: int) -> None:
        """Forget the evaluations after a step."""
        kept = [record for record in self.records() if record["step"] <= step]
        self.write("metrics.jsonl", "".join(f"{json.dumps(record)}\n" for record in kept))

    def _take_lock(self, file: IO[str]) -> None:
        try:
            _lock(file)
        except OSError as error:
            raise RunError(f"another run is writing in {self.path}; wait for it, or use another --out") from error

    def _content(self) -> list[str]:
        return [name for name in os.listdir(self.path) if name != _LOCK]


def finite(value: Any) -> Any:
    """The same with None for numbers that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
