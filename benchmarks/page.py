"""docs/performance.md: sections between marks are written by script, the rest by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import machine
from benchmarks.contest import Entry, Pace
from benchmarks.tables import of_case, of_targets
from benchmarks.workloads import CASES

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "performance.md"

Found = Mapping[str, Sequence[Entry]]


def put(name: str, text: str, page: Path = PAGE) -> None:
    """Replace what stands between the marks of this name.

    Raises:
        ValueError: the page has no such marks.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    written = page.read_text()
    if begin not in written or end not in written:
        raise ValueError(f"{page} has no marks {begin} and {end}")
    before, rest = written.split(begin)
    after = rest.split(end)[1]
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def comparison(found: Found, pace: Pace, device: str) -> str:
    """Everything about some workloads: where and how it was measured, what odekit is held to, and each of them."""
    picture = f"![Times next to each other](images/performance-{place(device)}.png)"
    parts = [setting(found, pace, device), of_targets(found), picture]
    for case, entries in found.items():
        parts += [f"**{case}**: {CASES[case]().title}", of_case(entries)]
    return "\n\n".join(parts)


def place(device: str) -> str:
    """The name of the section, and of the figure, of this kind of device."""
    return "cuda" if device.startswith("cuda") else "cpu"


def setting(found: Found, pace: Pace, device: str) -> str:
    """The machine, the versions and the clock."""
    versions: dict[str, str] = {}
    for entries in found.values():
        for entry in entries:
            versions.update(entry.versions)
    told = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    clock = {"wall": "wall time", "cpu": "processor time"}[pace.clock]
    return f"{machine.described(device)}; {told}; one thread, {clock}, up to {pace.rounds} rounds."
