"""The caller's hooks into a solve by rows: called once an iteration, with the times and states of all rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from odekit.core.callbacks import Callbacks
from odekit.core.rows.selection import Selection, put


class RowHooks:
    """Tells the hooks where all rows are; those that do not move in an iteration have the same time twice.

    Args:
        callbacks: on packed states.
        t0: ``[B]``, where the rows start, from ``y0``.
    """

    def __init__(self, callbacks: Callbacks, t0: np.ndarray, y0: Tensor) -> None:
        self.callbacks = callbacks
        self.t = t0.copy()
        self.y = y0

    def attempt(self, rows: Selection, t1: np.ndarray) -> None:
        """These rows are about to step to ``t1``."""
        self._tell(self.callbacks.attempt, rows, t1, np.ones(len(t1), dtype=bool))

    def judged(self, rows: Selection, t1: np.ndarray, ok: np.ndarray) -> None:
        """The steps of these rows to ``t1`` count where ``ok`` is set."""
        self._tell(self.callbacks.reject, rows, t1, ~ok)
        self._tell(self.callbacks.accept, rows, t1, ok)

    def reached(self, rows: Selection, t: np.ndarray, y: Tensor) -> None:
        """Steps counted, after which these rows are at times ``t`` in states ``y``."""
        self.moved(rows, t, y)
        reached: Any = self.callbacks.reached
        if reached is not None:
            reached(self.t.copy(), self.y)

    def moved(self, rows: Selection, t: np.ndarray, y: Tensor) -> None:
        """These rows are at times ``t`` in states ``y``."""
        self.t[rows.index] = t
        self.y = put(rows, y, self.y)

    def _tell(self, hook: Any, rows: Selection, t1: np.ndarray, which: np.ndarray) -> None:
        if hook is None or not which.any():
            return
        ends = self.t.copy()
        ends[rows.index[which]] = t1[which]
        hook(self.t.copy(), ends, self.y)

    def alone(self, row: int) -> Callbacks:
        """The hooks of a solve of one row, which the others wait for."""
        one = Selection(np.array([row]), self.y.device)
        everything = np.ones(1, dtype=bool)

        def tried(t0: float, t1: float, y: Tensor) -> None:
            self.moved(one, np.array([t0]), y)
            self.attempt(one, np.array([t1]))

        def accepted(t0: float, t1: float, y: Tensor) -> None:
            self.judged(one, np.array([t1]), everything)

        def rejected(t0: float, t1: float, y: Tensor) -> None:
            self.judged(one, np.array([t1]), ~everything)

        def reached(t: float, y: Tensor) -> None:
            self.reached(one, np.array([t]), y)

        return Callbacks(attempt=tried, accept=accepted, reject=rejected, reached=reached)
