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
NUMBERS = Path(__file__).parent / "exactness.csv"


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
    found = exactness.measured()
    exactness.write(found, NUMBERS)
    by_place: dict[tuple[str, str, float], list[exactness.Cell]] = {}
    for cell in found:
        by_place.setdefault((cell.solver, cell.method, cell.rtol), []).append(cell)
    exact = [label for label in exactness.LABELS if METHODS[label].exact and label != "direct"]
    rows = []
    for solver in exactness.SOLVERS:
        distances = ([c.deviation for c in found if (c.solver, c.method) == (solver, label)] for label in exact)
        rows.append([f"`{solver}`", *(_largest(numbers, "0e") for numbers in distances)])
    put("deviation", table(["solver", *exact], rows))
    rows = []
    for solver in exactness.SOLVERS:
        for label in ("direct", "reversible", "interpolated", "adjoint"):
            errors = [[c.error for c in by_place.get((solver, label, rtol), [])] for rtol in exactness.TOLERANCES]
            if any(errors):
                cells = [_largest(numbers, "1e") + _of_how_many(numbers) for numbers in errors]
                rows.append([f"`{solver}`", label, *cells])
    put("errors", table(["solver", "method", *(f"{rtol:.0e}" for rtol in exactness.TOLERANCES)], rows))
    _draw_exactness(by_place)


def _largest(numbers: list[float], digits: str) -> str:
    known = [x for x in numbers if not math.isnan(x)]
    return f"{max(known):.{digits}}" if known else "–"


def _of_how_many(numbers: list[float]) -> str:
    known = sum(not math.isnan(x) for x in numbers)
    return f" ({known})" if 0 < known < len(numbers) else ""


def _draw_exactness(by_place: dict[tuple[str, str, float], list[exactness.Cell]]) -> None:
    """A column for each solver; tolerances at which one of the problems has no answer are left out."""
    solvers, tolerances = exactness.SOLVERS, exactness.TOLERANCES
    figure, axes = plt.subplots(
        2, len(solvers), figsize=(2 * len(solvers), 7.5), sharex=True, sharey="row", constrained_layout=True
    )
    for column, solver in enumerate(solvers):
        for label in exactness.LABELS:
            style = styles()[label]
            places = [by_place.get((solver, label, rtol), []) for rtol in tolerances]
            for axis, measure in zip(axes[:, column], ("error", "deviation"), strict=True):
                if label != "direct" or measure == "error":
                    worst = [max([getattr(c, measure) for c in cells], default=math.nan) for cells in places]
                    whole = [math.nan if any(math.isnan(c.error) for c in cells) else 1.0 for cells in places]
                    axis.plot(tolerances, [max(x, 1e-17) * k for x, k in zip(worst, whole, strict=True)], **style)
        axes[0, column].set(xscale="log", yscale="log", title=solver.replace("_bashforth_", "\n"))
        axes[1, column].set(yscale="log", xlabel="rtol")
        for axis in axes[:, column]:
            axis.grid(alpha=0.3)
    axes[0, 0].invert_xaxis()
    axes[0, 0].set_ylabel("error, relative to a reference")
    axes[1, 0].set_ylabel("distance to direct, same steps")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=9, frameon=False)
    figure.savefig(DOCS / "images" / "gradients-exactness.png", dpi=90)
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
    for label in dict.fromkeys(label for times in found.values() for label in times):
        rows.append([label, *(_time(found[work].get(label)) for work in found)])
    put("time", table(["method", *found], rows))


def _time(found: tuple[float, float, float] | None) -> str:
    return "" if found is None else f"{1e3 * found[0]:.1f} ms, {found[1]:.2f}, {found[2]:.2f}"


def main() -> None:
    wanted = sys.argv[1:] or ["exactness", "memory", "time"]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads at hand")
    for name, write in (("exactness", write_exactness), ("memory", write_memory), ("time", write_times)):
        if name in wanted:
            write()


if __name__ == "__main__":
    main()
