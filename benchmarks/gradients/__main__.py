"""Measure the gradient methods and write docs/gradients.md's tables and figures.

python -m benchmarks.gradients [exactness] [memory] [time]
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch

from benchmarks.gradients import exactness, memory, timing
from benchmarks.gradients.methods import METHODS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "gradients.md"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def put(name: str, text: str) -> None:
    """Replace what stands between the marks of this name on the page."""
    page, begin, end = PAGE.read_text(), f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, rest = page.split(begin)
    after = rest.split(end)[1]
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def styles() -> dict[str, dict[str, Any]]:
    """The same colour and marker for a method in every figure; dashed for those that follow the ODE."""
    markers = "osv^D<>pX*"
    return {
        label: {
            "color": f"C{k}",
            "marker": markers[k],
            "markersize": 5,
            "linestyle": "-" if entry.exact else "--",
            "label": label,
        }
        for k, (label, entry) in enumerate(METHODS.items())
    }


def write_exactness() -> None:
    errors, deviations = exactness.against_the_reference(), exactness.against_direct()
    labels = [label for label, entry in METHODS.items() if entry.exact and label != "direct"]
    rows = []
    for solver, by_method in deviations.items():
        found = (by_method.get(label) for label in labels)
        rows.append([f"`{solver}`", *("–" if value is None else f"{value:.0e}" for value in found)])
    put("deviation", table(["solver", *labels], rows))
    rows = []
    for problem, by_label in errors.items():
        for label, by_rtol in by_label.items():
            rows.append([problem, label, *("–" if math.isnan(error) else f"{error:.1e}" for error in by_rtol)])
    put("errors", table(["problem", "method", *(f"{rtol:.0e}" for rtol in exactness.TOLERANCES)], rows))
    figure, axes = plt.subplots(1, len(errors), figsize=(3.4 * len(errors), 4.2), sharey=True, constrained_layout=True)
    for axis, (problem, by_label) in zip(axes, errors.items(), strict=True):
        for label, style in styles().items():
            axis.plot(exactness.TOLERANCES, by_label[label], **style)
        axis.set(xscale="log", yscale="log", title=problem, xlabel="rtol")
        axis.invert_xaxis()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("relative error of the gradient")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(DOCS / "images" / "gradients-exactness.png", dpi=100)
    plt.close(figure)


def write_memory() -> None:
    peaks = memory.peaks()
    counts = memory.COUNTS
    rows = []
    for label, by_steps in peaks.items():
        cells = [f"{by_steps[n] / 2**20:.1f}" if n in by_steps else "" for n in counts]
        rows.append([label, *cells, f"{memory.slope(by_steps):.2f}"])
    put("memory", table(["method", *(f"{n:,}" for n in counts), "states per step"], rows))
    figure, axis = plt.subplots(figsize=(7, 5), constrained_layout=True)
    for label, style in styles().items():
        if label in peaks:
            points = {n: max(peak, 2**16) / 2**20 for n, peak in peaks[label].items()}
            axis.plot(list(points), list(points.values()), **style)
    axis.set(xscale="log", yscale="log", xlabel="steps", ylabel="MiB above the start")
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(DOCS / "images" / "gradients-memory.png", dpi=110)
    plt.close(figure)


def write_times() -> None:
    found = timing.times()
    rows = []
    for label in next(iter(found.values())):
        cells = [f"{1e3 * s:.1f} ms, {ratio:.2f}, {plain:.2f}" for s, ratio, plain in (found[w][label] for w in found)]
        rows.append([label, *cells])
    put("time", table(["method", *found], rows))


def main() -> None:
    wanted = sys.argv[1:] or ["exactness", "memory", "time"]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads at hand")
    for name, write in (("exactness", write_exactness), ("memory", write_memory), ("time", write_times)):
        if name in wanted:
            write()


if __name__ == "__main__":
    main()
