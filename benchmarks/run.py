"""Time odekit next to its peers and next to the limit, each in a process of its own.

    python benchmarks/run.py W3 --against torchdiffeq torchode torchdyn diffrax limit
    python benchmarks/run.py                  all workloads against everybody (`make bench`)
    python benchmarks/run.py scaling          time against batch, size and number of steps
    python benchmarks/run.py startup          imports and `odekit list`

Tables are printed. With --out FOLDER they are kept there as JSON with a figure, and with --write they go into
docs/performance.md. JAX is taken from the Python that ODEKIT_BENCH_JAX names, or set up in an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])

import attrs

from benchmarks import figures, machine, page, startup
from benchmarks.competitors import MODULES, OURS
from benchmarks.contest import FULL, QUICK, Entry, Pace, contest
from benchmarks.tables import of_case, of_targets, table
from benchmarks.workloads import CASES, MEASURED, matching, scaling

PEERS = tuple(name for name in MODULES if name not in OURS)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    pace = attrs.evolve(QUICK if options.quick else FULL, clock=options.clock)
    if options.works == ["startup"]:
        _startup(pace, options.write)
    elif options.works == ["scaling"]:
        _scaling(pace, options)
    else:
        _comparison(matching(options.works or list(MEASURED)), pace, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("works", nargs="*", help=f"workloads, or their first letters: {', '.join(MEASURED)}")
    parser.add_argument("--against", nargs="+", choices=PEERS, default=list(PEERS), help="peers (default: all)")
    parser.add_argument("--ways", nargs="+", choices=OURS, default=list(OURS), help="ways to run odekit (default: all)")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda: passes are then timed to their end")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a machine that is shared")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--out", type=Path, help="a folder for JSON and a figure")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    return parser


def _comparison(cases: Sequence[str], pace: Pace, options: argparse.Namespace) -> None:
    found: dict[str, list[Entry]] = {}
    for case in cases:
        found[case] = contest(case, [*options.ways, *options.against], pace, options.device)
        print(f"\n{case}: {CASES[case]().title}\n{of_case(found[case])}", flush=True)
        if options.out:
            _keep(found, pace, options)
    print(f"\n{of_targets(found)}\n\n{page.setting(found, pace, options.device)}")
    if options.out:
        figures.side_by_side(found, options.out / "performance.png")
    if options.write:
        where = page.place(options.device)
        page.put(where, page.comparison(found, pace, options.device))
        figures.side_by_side(found, page.DOCS / "images" / f"performance-{where}.png")


def _keep(found: Mapping[str, Sequence[Entry]], pace: Pace, options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    kept = {
        "machine": machine.described(options.device),
        "pace": attrs.asdict(pace),
        "entries": {case: [attrs.asdict(entry) for entry in entries] for case, entries in found.items()},
    }
    (options.out / "performance.json").write_text(json.dumps(kept, indent=1))


def _scaling(pace: Pace, options: argparse.Namespace) -> None:
    series: dict[str, dict[int, list[Entry]]] = {}
    rows = []
    for name, (_, sizes) in scaling.SERIES.items():
        series[name] = {}
        for size in sizes:
            case = f"{name}-{size}"
            entries = contest(case, [*options.ways, *options.against], pace, options.device)
            series[name][size] = entries
            print(f"\n{case}: {CASES[case]().title}\n{of_case(entries)}", flush=True)
            rows.append([case, *_overheads(entries, CASES[case]().steps or 1)])
    taking_part = [*options.ways, *(name for name in options.against if name != "limit")]
    text = table(["µs a step beyond the calls of f", *taking_part], rows) if "limit" in options.against else ""
    print(f"\n{text}")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        figures.scaling(series, options.out / "scaling.png")
    if options.write:
        page.put("scaling", f"![Time against size](images/performance-scaling.png)\n\n{text}")
        figures.scaling(series, page.DOCS / "images" / "performance-scaling.png")


def _overheads(entries: Sequence[Entry], steps: int) -> list[str]:
    """Microseconds a step that everybody takes beyond the limit."""
    limit = next((entry.rounds for entry in entries if entry.competitor == "limit"), ())
    cells = []
    for entry in entries:
        if entry.competitor == "limit":
            continue
        known = entry.rounds and limit
        more = (statistics.median(entry.rounds) - statistics.median(limit)) / steps if known else 0.0
        cells.append(f"{1e6 * more:.0f}" if known else "")
    return cells


def _startup(pace: Pace, write: bool) -> None:
    text = startup.told(startup.measured(pace.rounds, pace.clock))
    print(text)
    if write:
        page.put("startup", text)


if __name__ == "__main__":
    main()
