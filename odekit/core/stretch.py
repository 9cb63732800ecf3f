"""How the times inside a span move as its ends move."""

from __future__ import annotations

import numpy as np


def shares(t: np.ndarray, first: np.ndarray, last: np.ndarray, fixed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much of a movement of either end of the span each time takes part in.

    Times between an end and the nearest fixed one are stretched evenly; those between two fixed times stay. With an
    infinite end everything moves along with the start. A span of nothing moves with its start.

    Args:
        t: times within spans.
        first, last: the ends of the spans, which broadcast against ``t``; ``last`` may be infinite.
        fixed: ``[N]``, in increasing order, times that do not move.

    Returns:
        The shares of the first and of the last end, in the shape of ``t``.
    """
    low, high = np.minimum(first, last), np.maximum(first, last)
    below = np.append(-np.inf, fixed)[np.searchsorted(fixed, t, side="right")]
    above = np.append(fixed, np.inf)[np.searchsorted(fixed, t, side="left")]
    below, above = np.where(below > low, below, -np.inf), np.where(above < high, above, np.inf)
    before, after = np.where(first <= last, below, above), np.where(first <= last, above, below)
    alone, free = np.isinf(before), np.isinf(after)
    start, end = np.where(alone, first, before), np.where(free, last, after)
    with np.errstate(invalid="ignore", divide="ignore"):
        part = np.where(np.isinf(end) | (start == end), 0.0, (t - start) / (end - start))
    return np.where(alone, 1.0 - part, 0.0), np.where(free, part, 0.0)
