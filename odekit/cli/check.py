"""``odekit check``: whether what is installed is what it claims to be."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from odekit.cli.plugins import plugin_files
from odekit.cli.problems import announced_catalog
from odekit.errors import NameNotFound, nearest
from odekit.registry import Catalog, Entry
from odekit.registry.catalog import LOCAL, normalized
from odekit.registry.loading import distributions_with_plugins

if TYPE_CHECKING:
    from odekit.testing import Finding, Report

_COLUMNS = ("KIND", "ORDER", "DIGITS", "MEMORY", "CHECKS", "SECONDS", "VERDICT")
_WIDTHS = (8, 5, 6, 6, 6, 7, 7)


def _distributions(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """How a shell completes a name: with distributions, for what they bring is known only once it is imported."""
    return [name for name in distributions_with_plugins() if name.startswith(incomplete)]


@click.command("check")
@click.argument("names", nargs=-1, metavar="[NAME | DISTRIBUTION]...", shell_complete=_distributions)
@click.option("--all", "everything", is_flag=True, help="Check everything that is installed.")
@click.option("--data-folder", type=click.Path(path_type=Path), envvar="ODEKIT_DATA", help="Where datasets are.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object to stdout.")
@click.pass_context
def check_command(
    ctx: click.Context,
    names: tuple[str, ...],
    everything: bool,
    data_folder: Path | None,
    as_json: bool,
) -> None:
    """Measure whether solvers, gradient methods, traces, models, dynamics and datasets are what they claim to be.

    Names are registered ones, of whatever kind, or those of distributions, whose things are all checked, as are those
    in the files of --plugin. What fails is told with what was measured and what was expected. The exit code is 0 only
    if everything that could be checked holds. ORDER is the lowest that was measured of a solver, DIGITS are right
    ones, MEMORY is what a gradient method keeps of a step, in states.

    \b
    Examples:
      odekit check dopri5 hutchinson
      odekit check odekit-template
      odekit check --plugin my_solver.py --json
    """
    if not (names or plugin_files() or everything):
        ctx.fail("say what to check: names (`odekit list` shows them), --plugin FILE.py, or --all")
    catalog = announced_catalog()
    entries = list(catalog.entries()) if everything else _named(catalog, names)
    entries += [entry for entry in _of_files(catalog) if entry not in entries]
    reports = _examined(entries, data_folder)
    if as_json:
        done = list(reports)
        click.echo(json.dumps({"holds": _holds(done), "reports": [_as_json(*each) for each in done]}, indent=2))
    else:
        done = _shown(catalog, entries, reports)
    ctx.exit(0 if _holds(done) else 1)


Examined = tuple[Entry, "Report"]


def _named(catalog: Catalog, names: Iterable[str]) -> list[Entry]:
    """The entries of these names, and those of distributions of these names."""
    entries, chosen = catalog.entries(), []
    for name in names:
        found = [entry for entry in entries if name in (entry.qualified, catalog.spelling(entry))]
        found = found or [entry for entry in entries if normalized(entry.distribution) == normalized(name)]
        if not found:
            known = {*(entry.distribution for entry in entries), *map(catalog.spelling, entries)}
            raise NameNotFound(
                f"nothing that is registered is called {name!r}, and no distribution. {nearest(name, known)}"
            )
        chosen += [entry for entry in found if entry not in chosen]
    return chosen


def _of_files(catalog: Catalog) -> list[Entry]:
    """What the plugins in files register that were typed."""
    brought = {str(file.resolve()) for file in plugin_files()}
    return [entry for entry in catalog.entries() if entry.distribution == LOCAL and entry.entry_point in brought]


def _examined(entries: Sequence[Entry], folder: Path | None) -> Iterator[Examined]:
    """The reports, one after the other as they are ready."""
    import torch

    from odekit.testing import examine

    torch.set_num_threads(1)  # everything is small here
    for entry in entries:
        yield entry, examine(entry.kind, entry.name, entry.object, folder)


def _holds(done: Sequence[Examined]) -> bool:
    """Whether nothing failed, and something was checked at all."""
    verdicts = {report.verdict.value for _, report in done}
    return "failed" not in verdicts and "passed" in verdicts


def _shown(catalog: Catalog, entries: Sequence[Entry], reports: Iterable[Examined]) -> list[Examined]:
    """Write the table, each line when it is ready."""
    wide = max([4, *(len(catalog.spelling(entry)) for entry in entries)])
    done = []
    click.echo(_line("NAME", _COLUMNS, wide))
    for entry, report in reports:
        done.append((entry, report))
        click.echo(_line(catalog.spelling(entry), _cells(report), wide))
        for finding in _told(report):
            click.echo(f"    {finding}")
    counted = [report.verdict.value for _, report in done]
    said = ", ".join(f"{counted.count(word)} {word}" for word in ("passed", "failed", "skipped") if word in counted)
    click.echo(f"\n{said or 'nothing to check'}")
    return done


def _told(report: Report) -> Sequence[Finding]:
    """What the table goes on to say: failures, or, where nothing could be checked, why."""
    return report.findings[:1] if report.verdict.value == "skipped" else report.failures


def _cells(report: Report) -> tuple[str, ...]:
    order, digits, slope = (report.number(name) for name in ("order", "digits", "slope"))
    ran = [finding for finding in report.findings if finding.verdict.value != "skipped"]
    return (
        report.kind,
        "" if order is None else f"{order:.2f}",
        "" if digits is None else f"{digits:.1f}",
        "" if slope is None else f"{abs(slope):.1f}",
        f"{len(ran) - len(report.failures)}/{len(ran)}",
        f"{report.seconds:.1f}",
        report.verdict.value,
    )


def _line(name: str, cells: Sequence[str], wide: int) -> str:
    kind, *numbers, verdict = (
        cell.ljust(width) if column in ("KIND", "VERDICT") else cell.rjust(width)
        for cell, width, column in zip(cells, _WIDTHS, _COLUMNS, strict=True)
    )
    return "  ".join([name.ljust(wide), kind, *numbers, verdict]).rstrip()


def _as_json(entry: Entry, report: Report) -> dict[str, Any]:
    return {
        "name": entry.name,
        "kind": entry.kind,
        "distribution": entry.distribution,
        "version": entry.version,
        "verdict": report.verdict.value,
        "seconds": round(report.seconds, 3),
        "findings": [
            {
                "check": finding.check,
                "verdict": finding.verdict.value,
                "measured": finding.measured,
                "expected": finding.expected,
                "detail": finding.detail,
                "numbers": {name: x if math.isfinite(x) else None for name, x in finding.numbers.items()},
            }
            for finding in report.findings
        ],
    }
