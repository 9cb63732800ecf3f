"""Work-precision diagrams: the error of a solve against its calls of f and against its time.

    python -m benchmarks.work_precision [nonstiff] [stiff]

Draws docs/images/work-precision-*.png. SciPy takes part always, torchdiffeq where it is installed
(`pip install 'odekit[bench]'`). Each solve runs on one thread; times are medians of three.
"""

from __future__ import annotations

import importlib.util
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter
from torch import Tensor

from benchmarks.measure import Counted, Measured, measured, ours, scipys
from benchmarks.problems import NONSTIFF, STIFF, Problem

IMAGES = Path(__file__).parent.parent / "docs" / "images"
REPEATS = 3
PATIENCE = 60_000
"""Calls of f after which a solve is left out."""

Solve = Callable[[Problem, float], Measured]

NONSTIFF_PANELS = ("B1", "D3", "arenstorf")
NONSTIFF_RTOLS = (1e-4, 1e-6, 1e-8, 1e-10)
STIFF_PANELS = ("rober", "orego", "brusselator")
STIFF_RTOLS = (1e-3, 1e-5, 1e-7)


def torchdiffeqs(method: str) -> Solve:
    """By torchdiffeq's method."""
    import torchdiffeq

    def run(problem: Problem, rtol: float) -> Measured:
        def solve(f: Counted) -> tuple[Tensor, int]:
            y = torchdiffeq.odeint(
                f, problem.y0, problem.times, method=method, rtol=rtol, atol=float(problem.atol(rtol).min())
            )
            return y[-1], 0

        return measured(problem, solve, PATIENCE)

    return run


def by_odekit(solver: str) -> Solve:
    return lambda problem, rtol: ours(problem, solver, rtol, PATIENCE)


def by_scipy(method: str) -> Solve:
    return lambda problem, rtol: scipys(problem, method, rtol, PATIENCE)


def repeated(solve: Solve, problem: Problem, rtol: float) -> Measured:
    """One solve's counts, and the median of the seconds."""
    runs = [solve(problem, rtol) for _ in range(REPEATS)]
    return Measured(runs[0].digits, runs[0].nfe, runs[0].jacobians, statistics.median(run.seconds for run in runs))


def draw(name: str, panels: list[Problem], rtols: tuple[float, ...], solves: dict[str, Solve]) -> None:
    """One column a problem: error against calls of f above, against seconds below."""
    figure, axes = plt.subplots(2, len(panels), figsize=(4 * len(panels), 7), constrained_layout=True)
    for column, problem in enumerate(panels):
        for label, solve in solves.items():
            runs = [run for rtol in rtols if math.isfinite((run := repeated(solve, problem, rtol)).digits)]
            errors = [10**-run.digits for run in runs]
            style = {"marker": "o", "markersize": 4, "linestyle": "-" if label.startswith("odekit") else "--"}
            axes[0, column].plot([run.nfe for run in runs], errors, label=label, **style)
            axes[1, column].plot([run.seconds for run in runs], errors, label=label, **style)
            print(f"{problem.name:14} {label:22} {[round(run.digits, 1) for run in runs]}", flush=True)
        _frame(axes[0, column], "calls of f", problem.name)
        _frame(axes[1, column], "seconds", problem.name)
    axes[0, 0].set_ylabel("relative error at the end")
    axes[1, 0].set_ylabel("relative error at the end")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(IMAGES / f"work-precision-{name}.png", dpi=110)
    plt.close(figure)


def _frame(axes: Axes, across: str, title: str) -> None:
    axes.set(xscale="log", yscale="log", xlabel=across, title=title)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)


def main() -> None:
    torch.set_num_threads(1)
    nonstiff = {f"odekit {solver}": by_odekit(solver) for solver in ("dopri5", "tsit5", "vern7")}
    stiff = {f"odekit {solver}": by_odekit(solver) for solver in ("rodas5p", "radau5", "bdf")}
    nonstiff |= {f"SciPy {method}": by_scipy(method) for method in ("DOP853", "RK45")}
    stiff |= {f"SciPy {method}": by_scipy(method) for method in ("Radau", "BDF")}
    if importlib.util.find_spec("torchdiffeq"):
        nonstiff |= {f"torchdiffeq {method}": torchdiffeqs(method) for method in ("dopri5", "dopri8")}
    else:
        print("torchdiffeq is not installed, and left out")
    wanted = sys.argv[1:] or ["nonstiff", "stiff"]
    if "nonstiff" in wanted:
        draw("nonstiff", [NONSTIFF[name] for name in NONSTIFF_PANELS], NONSTIFF_RTOLS, nonstiff)
    if "stiff" in wanted:
        draw("stiff", [STIFF[name] for name in STIFF_PANELS], STIFF_RTOLS, stiff)


if __name__ == "__main__":
    main()
