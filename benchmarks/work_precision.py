"""Work-precision diagrams: the error of a solve against its calls of f and against its time.

    python -m benchmarks.work_precision measure [LIBRARY ...]    solve, into runs/work-precision
    python -m benchmarks.work_precision write                    draw docs/images, and write docs/work-precision.md

odekit and SciPy take part always, torchdiffeq and diffrax where they are installed (`pip install 'odekit[bench]'`).
Each library is measured in a process of its own, on one thread; times are medians of three.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import torch

from benchmarks.diagrams import draw
from benchmarks.measure import Measured
from benchmarks.peers import LIBRARIES, Solve, installed, versions
from benchmarks.problems import NONSTIFF, STIFF, Problem

ROOT = Path(__file__).parent.parent
RUNS = ROOT / "runs" / "work-precision"
PAGE = ROOT / "docs" / "work-precision.md"
REPEATS = 3


@attrs.frozen
class Diagram:
    """Problems, tolerances, and the methods of each library that are put side by side."""

    name: str
    title: str
    problems: tuple[Problem, ...]
    rtols: tuple[float, ...]
    methods: dict[str, tuple[str, ...]]

    def measure(self, library: str) -> list[dict[str, Any]]:
        """The lines of one library: problem, method, and what each tolerance came to."""
        lines = []
        for problem in self.problems:
            for method in self.methods[library]:
                solve = LIBRARIES[library](method)
                found = [repeated(solve, problem, rtol) for rtol in self.rtols]
                points = [attrs.asdict(one) for one in found if math.isfinite(one.digits)]
                lines.append({"problem": problem.name, "library": library, "method": method, "points": points})
                print(
                    f"{problem.name:12} {library:12} {method:9} {[round(one.digits, 1) for one in found]}", flush=True
                )
        return lines


DIAGRAMS = (
    Diagram(
        "nonstiff",
        "Non-stiff",
        tuple(NONSTIFF[name] for name in ("B1", "D3", "arenstorf")),
        (1e-4, 1e-6, 1e-8, 1e-10),
        {
            "odekit": ("dopri5", "tsit5", "vern7", "dopri8"),
            "SciPy": ("RK45", "DOP853"),
            "torchdiffeq": ("bosh3", "dopri5", "dopri8"),
            "diffrax": ("Dopri5", "Tsit5", "Dopri8"),
        },
    ),
    Diagram(
        "stiff",
        "Stiff",
        tuple(STIFF[name] for name in ("rober", "orego", "brusselator")),
        (1e-3, 1e-5, 1e-7),
        {
            "odekit": ("rodas5p", "radau5", "bdf"),
            "SciPy": ("Radau", "BDF"),
            "torchdiffeq": ("LSODA",),
            "diffrax": ("Kvaerno5",),
        },
    ),
)


def repeated(solve: Solve, problem: Problem, rtol: float) -> Measured:
    """One solve's counts, and the median of the seconds; what takes a second or more is timed once."""
    first = solve(problem, rtol)
    if not math.isfinite(first.digits) or first.seconds >= 1:
        return first
    seconds = [first.seconds, *(solve(problem, rtol).seconds for _ in range(REPEATS - 1))]
    return attrs.evolve(first, seconds=statistics.median(seconds))


def measure(library: str, diagrams: list[str]) -> None:
    """The lines of one library, into a file for each diagram."""
    torch.set_num_threads(1)
    RUNS.mkdir(parents=True, exist_ok=True)
    for diagram in DIAGRAMS:
        if not diagrams or diagram.name in diagrams:
            content = {"versions": versions(library), "cores": os.cpu_count(), "lines": diagram.measure(library)}
            (RUNS / f"{diagram.name}-{library}.json").write_text(json.dumps(content, indent=1))


def measure_all(libraries: list[str]) -> None:
    """Each library in a process of its own."""
    for library in libraries:
        if installed(library):
            subprocess.run([sys.executable, "-m", "benchmarks.work_precision", "alone", library], cwd=ROOT, check=True)
        else:
            print(f"{library} is not installed, and left out")


def write() -> None:
    """The pictures and the page, from the libraries that have been measured."""
    versions: dict[str, str] = {}
    cores, sections = 0, []
    for diagram in DIAGRAMS:
        files = {library: RUNS / f"{diagram.name}-{library}.json" for library in LIBRARIES}
        found = {library: json.loads(path.read_text()) for library, path in files.items() if path.is_file()}
        lines = [line for one in found.values() for line in one["lines"]]
        draw(diagram.name, [problem.name for problem in diagram.problems], lines)
        sections.append(_section(diagram, list(found)))
        for one in found.values():
            versions |= one["versions"]
            cores = max(cores, one["cores"])
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    PAGE.write_text(_HEAD.format(versions=told, cores=cores) + "".join(sections) + _TAIL)


def _section(diagram: Diagram, libraries: list[str]) -> str:
    problems = ", ".join(problem.name for problem in diagram.problems)
    tolerances = ", ".join(f"{rtol:g}" for rtol in diagram.rtols)
    methods = "; ".join(f"{library}: {', '.join(diagram.methods[library])}" for library in libraries)
    return (
        f"\n## {diagram.title}\n\n"
        f"![Error against calls of f and seconds on {problems}](images/work-precision-{diagram.name}.png)\n\n"
        f"Measured were {methods}; at relative tolerances of {tolerances}.\n"
    )


_HEAD = """# Work and precision

How far off the end of a solve is, against the calls of f above and against seconds below. The lower left corner wins.
Problems, their answers and what counts as an error are in
[benchmarks/problems](../benchmarks/problems/problem.py). This page and its pictures are written by

```
pip install 'odekit[bench]'
python -m benchmarks.work_precision measure
python -m benchmarks.work_precision write
```

from {versions}, on one thread of a shared machine with {cores} cores. Times are medians of three (of one, from a
second on): compare shapes, not milliseconds. Errors near 1 mean that a solve lost the trajectory. A solve without an
answer, or with more than 20 000 calls of f (500 000 in diffrax, which is compiled), is left out.

- **odekit**, **SciPy** and **torchdiffeq** call the same f, written in PyTorch. SciPy's Radau and BDF get the Jacobian
  by reverse mode, and the calls of f in that do not count; in odekit a Jacobian counts as one call. torchdiffeq has no
  stiff solver of its own; LSODA is SciPy's, through its wrapper, and takes the Jacobian by differences, which do count.
  It takes one number for `atol`: the smallest of the problem's.
- **diffrax** runs as one compiled program, with f written in JAX, which tests compare with the one in PyTorch. One
  solve beforehand compiles it, and is not timed: so its seconds have no interpreter in them, those of the others do.
  Its calls of f are counted in a second program, in which f reports each of its calls to the host: for explicit methods
  the number of steps, rejected ones included, times the stages that FSAL leaves; for Kvaerno5 also every iteration of
  Newton's method, and one call for each Jacobian. Steps are chosen by its PIDController: its defaults for explicit
  methods, `pcoeff=0.3, icoeff=0.4` for Kvaerno5, which took fewer steps there than the defaults did.
"""

_TAIL = """
What the solvers are held to, by counts rather than by time, is printed by `python -m benchmarks.bars`: on the problems
of NONSTIFF DETEST and on the classics 7 digits at rtol = 1e-8, by some explicit solver. On most of them the default
step control gives them; the orbit D5 takes `solver="dopri8", control="predictive", norm="max"`. The Arenstorf orbit
multiplies relative errors by up to 3e6 on its way. At rtol = 1e-8 DOP853 gives 4.1 digits there, vern7 4.8, dopri8 4.7
and, with that control, 6.3, which is partly luck; at rtol = 1e-11 they give 7.6, 7.5, 7.6 and 8.0.
"""


def main(arguments: list[str]) -> None:
    match arguments:
        case ["measure", *libraries]:
            measure_all(libraries or list(LIBRARIES))
        case ["alone", library, *diagrams]:
            measure(library, diagrams)
        case ["write"]:
            write()
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
