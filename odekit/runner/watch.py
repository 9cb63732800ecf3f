"""When training has to stop before its end: signals and the clock, agreed on by all processes."""

from __future__ import annotations

import enum
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from odekit.runner.distributed import Processes


class Stop(enum.IntEnum):
    """Why training ended."""

    FINISHED = 0
    TIME_LIMIT = 1
    TERMINATED = 2
    INTERRUPTED = 3

    @property
    def asked(self) -> bool:
        """Whether somebody asked for it with a signal, and does not want to wait for more."""
        return self in (Stop.TERMINATED, Stop.INTERRUPTED)

    @property
    def exit_code(self) -> int:
        """What the command ends with."""
        return {Stop.TERMINATED: 143, Stop.INTERRUPTED: 130}.get(self, 0)

    def __str__(self) -> str:
        return {0: "finished", 1: "the time limit", 2: "SIGTERM", 3: "Ctrl-C"}[self.value]


_SIGNALS = {signal.SIGINT: Stop.INTERRUPTED, signal.SIGTERM: Stop.TERMINATED}


class Watch:
    """Looks for a reason to stop between two steps.

    While it is entered, a first SIGINT or SIGTERM only leaves a word; a second one acts as it always does. Outside the
    main thread, where Python handles no signals, only the clock counts.

    Args:
        time_limit: seconds from entering.
    """

    def __init__(self, processes: Processes, time_limit: float | None = None) -> None:
        self._processes = processes
        self._limit = time_limit
        self._started = time.monotonic()
        self._word = Stop.FINISHED
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Watch:
        self._started = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._heard) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()

    @property
    def seconds(self) -> float:
        """Time since entering."""
        return time.monotonic() - self._started

    def reason(self) -> Stop | None:
        """Why to stop now; None to go on. All processes get the same answer."""
        late = self._limit is not None and self.seconds >= self._limit
        word = max(self._word, Stop.TIME_LIMIT if late else Stop.FINISHED)
        return Stop(self._processes.largest(int(word))) or None

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self._word = _SIGNALS[signal.Signals(number)]
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
