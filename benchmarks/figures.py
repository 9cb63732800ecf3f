"""The figures of docs/performance.md."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from benchmarks.competitors import MODULES
from benchmarks.contest import Entry

Found = Mapping[str, Sequence[Entry]]
AXES = {"batch": "states in the batch", "size": "dimension of a state", "steps": "steps"}


def colours() -> dict[str, str]:
    """The same colour for a competitor in every figure."""
    return {name: "black" if name == "limit" else f"C{k}" for k, name in enumerate(MODULES)}


def side_by_side(found: Found, to: Path) -> None:
    """Times of all competitors, in units of the first one's, by workload."""
    names = [name for name in MODULES if any(e.competitor == name and e.rounds for es in found.values() for e in es)]
    figure, axis = plt.subplots(figsize=(8, 1.5 + 0.5 * len(found)), constrained_layout=True)
    for name in names:
        points = []
        for k, entries in enumerate(found.values()):
            own = next((e.rounds for e in entries if e.competitor == name), ())
            if own and entries[0].rounds:
                points.append((statistics.median(own) / statistics.median(entries[0].rounds), k))
        marker = "|" if name == "limit" else "o"
        axis.plot(*zip(*points, strict=True), marker, color=colours()[name], label=name, markersize=9)
    axis.set(xscale="log", xlabel="time, in units of the first competitor's (less is faster)")
    axis.set_yticks(range(len(found)), list(found))
    axis.invert_yaxis()
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(to, dpi=110)
    plt.close(figure)


def scaling(series: Mapping[str, Mapping[int, Sequence[Entry]]], to: Path) -> None:
    """Milliseconds of a pass against size, one panel a series."""
    figure, axes = plt.subplots(1, len(series), figsize=(4 * len(series), 4), squeeze=False, constrained_layout=True)
    for axis, (name, by_size) in zip(axes[0], series.items(), strict=True):
        for competitor, colour in colours().items():
            points = [
                (size, 1e3 * statistics.median(entry.rounds))
                for size, entries in by_size.items()
                for entry in entries
                if entry.competitor == competitor and entry.rounds
            ]
            if points:
                axis.plot(*zip(*points, strict=True), "o-", color=colour, label=competitor, markersize=4)
        axis.set(xscale="log", yscale="log", xlabel=AXES[name], ylabel="ms")
        axis.grid(alpha=0.3)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(to, dpi=110)
    plt.close(figure)
