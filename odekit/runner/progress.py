"""What the user sees while a run goes on: a bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

_PAUSE = 5.0


class Display:
    """Shows nothing; the others derive from it."""

    def note(self, text: str) -> None:
        """A line for the user."""

    def begin(self, total: int, done: int) -> None:
        """Training begins, after ``done`` of ``total`` steps."""

    def step(self, done: int, measured: Mapping[str, float]) -> None:
        """A step was done."""

    def end(self) -> None:
        """Training is over, whatever the reason."""


class Lines(Display):
    """A line every few seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._total = 0
        self._last = 0.0

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def begin(self, total: int, done: int) -> None:
        self._total, self._last = total, time.monotonic()

    def step(self, done: int, measured: Mapping[str, float]) -> None:
        if time.monotonic() - self._last >= _PAUSE:
            self._last = time.monotonic()
            self.note(f"step {done}/{self._total}  {_brief(measured)}")


class Bar(Display):
    """A progress bar, with the notes above it."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream)
        self._progress: Progress | None = None

    def note(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)

    def begin(self, total: int, done: int) -> None:
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[brief]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._progress.add_task("training", total=total, completed=done, brief="")
        self._progress.start()

    def step(self, done: int, measured: Mapping[str, float]) -> None:
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=done, brief=_brief(measured))

    def end(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def display_on(stream: TextIO) -> Display:
    """The display that suits a stream."""
    return Bar(stream) if stream.isatty() else Lines(stream)


def evaluation_line(record: Mapping[str, Any], total: int) -> str:
    """One evaluation, for the reader."""
    parts = [f"step {record['step']}/{total}", f"epoch {record['epoch']:.4g}", f"train loss {record['train_loss']:.4f}"]
    if "valid_error" in record:
        parts += [f"valid error {100 * record['valid_error']:.2f} %"]
    elif "valid_log_likelihood" in record:
        mean, spread = record["valid_log_likelihood"], record["valid_standard_error"]
        parts += [f"valid log-likelihood {mean:.4f} ± {spread:.4f} nats"]
    else:
        parts += [f"valid loss {record['valid_loss']:.4f}"]
    return "  ".join([*parts, *_nfe(record), f"{record['wall_seconds']:.1f} s"])


def _brief(measured: Mapping[str, float]) -> str:
    return "  ".join([f"loss {measured['loss']:.4f}", *_nfe(measured)])


def _nfe(costs: Mapping[str, float]) -> list[str]:
    """Calls of the dynamics, forward and backward; nothing for a model that has none."""
    forward, backward = costs["nfe_forward"], costs["nfe_backward"]
    return [f"nfe {forward:.4g} + {backward:.4g}"] if forward else []
