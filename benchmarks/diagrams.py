"""How the lines of a work-precision diagram are drawn: a colour for every library, a marker for every method."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

IMAGES = Path(__file__).parent.parent / "docs" / "images"
COLOURS = {"odekit": "tab:blue", "SciPy": "tab:red", "torchdiffeq": "tab:green", "diffrax": "tab:purple"}
DASHES = {"odekit": "-", "SciPy": "--", "torchdiffeq": ":", "diffrax": "-."}
MARKERS = {
    "bosh3": "v", "dopri5": "o", "rk45": "o", "tsit5": "s", "vern7": "^", "dopri8": "D", "dop853": "P",
    "rodas5p": "s", "kvaerno5": "o", "radau5": "^", "radau": "^", "bdf": "D", "lsoda": "X",
}  # fmt: skip
"""By the method's name in small letters, the same for the same method of any library."""

LOST = 3.0
"""Relative errors above this are not shown: the solve lost the trajectory."""


def draw(name: str, problems: list[str], lines: list[dict[str, Any]]) -> None:
    """Two bands of problems; for each one error against calls of f above, against seconds below."""
    columns = math.ceil(len(problems) / 2)
    figure, axes = plt.subplots(4, columns, figsize=(3.7 * columns, 14), constrained_layout=True)
    for cell in axes.flat:
        cell.set_visible(False)
    for place, problem in enumerate(problems):
        band, column = divmod(place, columns)
        above, below = axes[2 * band : 2 * band + 2, column]
        for line in lines:
            if line["problem"] == problem:
                _plot(above, below, line)
        _frame(above, "calls of f", problem)
        _frame(below, "seconds", problem)
        if column == 0:
            above.set_ylabel("relative error at the end")
            below.set_ylabel("relative error at the end")
    legend = axes[0, 0].get_legend_handles_labels()
    figure.legend(*legend, loc="outside lower center", ncols=4, frameon=False, fontsize=12)
    figure.savefig(IMAGES / f"work-precision-{name}.png", dpi=90)
    plt.close(figure)


def _plot(above: Axes, below: Axes, line: dict[str, Any]) -> None:
    library, method, points = line["library"], line["method"], line["points"]
    style = {
        "color": COLOURS[library], "linestyle": DASHES[library], "marker": MARKERS[method.lower()],
        "markersize": 5, "linewidth": 1.2, "label": f"{library} {method}",
    }  # fmt: skip
    errors = [10 ** -point["digits"] for point in points]
    above.plot([point["nfe"] for point in points], errors, **style)
    below.plot([point["seconds"] for point in points], errors, **style)


def _frame(axes: Axes, across: str, title: str) -> None:
    axes.set(xscale="log", yscale="log", xlabel=across, title=title, visible=True)
    axes.set_ylim(top=min(axes.get_ylim()[1], LOST))
    axes.yaxis.set_major_locator(LogLocator(numticks=20))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
