"""Work-precision diagrams: the error of a solve against its calls of f and against its time.

    python -m benchmarks.work_precision measure [LIBRARY ...]    solve, into runs/work-precision/LIBRARY
    python -m benchmarks.work_precision alone LIBRARY [PROBLEM ...]    in this process, all or some problems
    python -m benchmarks.work_precision write                    draw docs/images, and write docs/work-precision.md

odekit and SciPy take part always, torchdiffeq and diffrax where they are installed (`pip install 'odekit[bench]'`).
Each library is measured in a process of its own, on one thread. Times are processor time, medians of three. What has
been measured is not measured again: remove the file PROBLEM.json to do so, or the folder to begin anew.
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

    def measure(self, library: str, problem: Problem) -> list[dict[str, Any]]:
        """The lines of one library on one problem: method, and what each tolerance came to."""
        lines = []
        for method in self.methods[library]:
            solve = LIBRARIES[library](method)
            found = [repeated(solve, problem, rtol) for rtol in self.rtols]
            points = [attrs.asdict(one) for one in found if math.isfinite(one.digits)]
            lines.append({"problem": problem.name, "library": library, "method": method, "points": points})
            print(f"{problem.name:12} {library:12} {method:9} {[round(one.digits, 1) for one in found]}", flush=True)
        return lines


DIAGRAMS = (
    Diagram(
        "nonstiff",
        "Non-stiff",
        tuple(NONSTIFF[name] for name in ("A3", "B1", "C3", "D3", "E2", "arenstorf")),
        (1e-4, 1e-7, 1e-10),
        {
            "odekit": ("dopri5", "tsit5", "vern7", "dopri8"),
            "SciPy": ("RK45", "DOP853"),
            "torchdiffeq": ("dopri5", "dopri8"),
            "diffrax": ("Dopri5", "Tsit5", "Dopri8"),
        },
    ),
    Diagram(
        "stiff",
        "Stiff",
        tuple(STIFF[name] for name in ("rober", "vdpol", "hires", "orego", "pollu", "e5", "brusselator")),
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
    """One solve's counts, and the median of the seconds; what takes half a second is timed once."""
    first = solve(problem, rtol)
    if not math.isfinite(first.digits) or first.seconds >= 0.5:
        return first
    seconds = [first.seconds, *(solve(problem, rtol).seconds for _ in range(REPEATS - 1))]
    return attrs.evolve(first, seconds=statistics.median(seconds))


def measured_file(library: str, problem: Problem) -> Path:
    return RUNS / library / f"{problem.name}.json"


def measure(library: str, problems: list[str]) -> None:
    """What one library has not solved yet of the problems (none named: all), into a file for each problem."""
    torch.set_num_threads(1)
    for diagram in DIAGRAMS:
        for problem in diagram.problems:
            path = measured_file(library, problem)
            if not path.is_file() and (not problems or problem.name in problems):
                lines = diagram.measure(library, problem)
                path.parent.mkdir(parents=True, exist_ok=True)
                content = {"versions": versions(library), "cores": os.cpu_count(), "lines": lines}
                path.write_text(json.dumps(content, indent=1))


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
        files = [measured_file(library, problem) for library in LIBRARIES for problem in diagram.problems]
        found = [json.loads(path.read_text()) for path in files if path.is_file()]
        lines = [line for one in found for line in one["lines"]]
        draw(diagram.name, [problem.name for problem in diagram.problems], lines)
        sections.append(_section(diagram, list(dict.fromkeys(line["library"] for line in lines))))
        for one in found:
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

How far off the end of a solve is, for each problem against the calls of f above and against seconds below. The lower
left corner wins.
Problems, their answers and what counts as an error are in
[benchmarks/problems](../benchmarks/problems/problem.py). This page and its pictures are written by

```
pip install 'odekit[bench]'
python -m benchmarks.work_precision measure
python -m benchmarks.work_precision write
```

from {versions}, on one thread of a shared
machine with {cores} cores. Seconds are of processor time, medians of three (of one, from half a second on): compare
shapes, not milliseconds. Errors near 1 mean that a solve lost the trajectory. A solve without an answer is left out,
and so is one with more than 20 000 calls of f or 15 seconds, in diffrax, which is compiled, with more than 30 000 steps
or 500 000 calls.

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
What the solvers are held to, by counts rather than by time, is printed by `python -m benchmarks.bars`: on every problem
of NONSTIFF DETEST and of the classics 7 digits at rtol = 1e-8. On most of them an explicit solver gives them with its
default step control; the orbit D5 takes `solver="dopri8", control="predictive", norm="max"`. The Arenstorf orbit
multiplies relative errors by up to 3e6 on its way, and takes a solver that is careful by itself: at rtol = 1e-8 DOP853
gives 4.1 digits there for 1778 calls of f, and `gauss6`, whose error estimate is of order three and far above the error
of a method of order six, 7.6 digits for 7186.
"""


def main(arguments: list[str]) -> None:
    match arguments:
        case ["measure", *libraries]:
            measure_all(libraries or list(LIBRARIES))
        case ["alone", library, *problems]:
            measure(library, problems)
        case ["write"]:
            write()
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
