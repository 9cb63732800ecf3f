"""From entries to ratios and tables."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import attrs

from benchmarks.competitors import OURS
from benchmarks.contest import Entry
from benchmarks.targets import TARGETS


@attrs.frozen
class Ratio:
    """How many times as long one competitor takes as another: of the medians, with the range over the rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{_short(self.median)} ({_short(self.low)}–{_short(self.high)})"


def ratio(slow: Sequence[float], fast: Sequence[float]) -> Ratio | None:
    """The seconds of a pass of one over those of the other, which were measured in the same rounds; None without any.

    Raises:
        ValueError: they were not measured in the same rounds.
    """
    by_round = [a / b for a, b in zip(slow, fast, strict=True)] if slow and fast else []
    if not by_round:
        return None
    return Ratio(statistics.median(slow) / statistics.median(fast), min(by_round), max(by_round))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown, which reads well on a terminal too."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
    padded = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    rule = " | ".join("-" * width for width in widths)
    return "\n".join(f"| {line} |" for line in (padded[0], rule, *padded[1:]))


def of_case(entries: Sequence[Entry]) -> str:
    """One workload: what everybody took and came to, and how many times as long as the first."""
    rows = []
    base = entries[0]
    for entry in entries:
        if not entry.rounds:
            rows.append([entry.competitor, *[""] * 6, entry.note])
            continue
        times = ratio(entry.rounds, base.rounds)
        rows.append(
            [
                entry.competitor, _milliseconds(statistics.median(entry.rounds)), _milliseconds(entry.first),
                _calls(entry), _error(entry.error), f"{entry.peak / 2**20:.0f}",
                "1" if entry is base or times is None else str(times), "",
            ]
        )  # fmt: skip
    return table(["", "ms", "first, ms", "NFE", "error", "MiB", f"× {base.competitor}", ""], rows)


def of_targets(found: Mapping[str, Sequence[Entry]]) -> str:
    """What odekit is held to, and what it reached: its speed next to a peer's, or its time next to the limit's."""
    rows = []
    for target in TARGETS:
        entries = {entry.competitor: entry for entry in found.get(target.case, ())}
        if target.against not in entries:
            continue
        cells = []
        for ours in OURS:
            wanted = getattr(target, ours.replace("-", "_"))
            reached = _reached(entries.get(ours), entries[target.against], target.against == "limit")
            cells.append(f"{reached or '–'} of {wanted:g}" if wanted else f"{reached or '–'}")
        rows.append([target.case, target.against, *cells])
    return table(["work", "against", *OURS], rows)


def _reached(ours: Entry | None, peer: Entry, limit: bool) -> Ratio | None:
    if ours is None:
        return None
    return ratio(ours.rounds, peer.rounds) if limit else ratio(peer.rounds, ours.rounds)


def _short(x: float) -> str:
    return f"{x:.2f}" if x < 10 else f"{x:.0f}"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:,.0f}"


def _calls(entry: Entry) -> str:
    return f"{entry.nfe} + {entry.nfe_backward}" if entry.nfe_backward else f"{entry.nfe}"


def _error(error: float) -> str:
    return "" if math.isnan(error) else f"{error:.0e}"
