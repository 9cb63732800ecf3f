"""Everything that odekit brings passes the checks of its kind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from odekit.registry import Entry, catalog
from odekit.testing import Verdict, examine

DEFAULT = {"rk4", "checkpointed", "exact", "hutchinson", "stem-only", "moons"}
"""One of every kind or two; the slow run takes all the others through their checks."""

ENTRIES = [
    pytest.param(entry, id=f"{entry.kind}-{entry.name}", marks=() if entry.name in DEFAULT else pytest.mark.slow)
    for entry in catalog().entries()
    if entry.first_party
]


@pytest.mark.parametrize("entry", ENTRIES)
def test_what_odekit_brings_is_what_it_claims_to_be(entry: Entry) -> None:
    place = os.environ.get("ODEKIT_DATA")
    report = examine(entry.kind, entry.name, entry.object, Path(place) if place else None)
    if report.verdict is Verdict.SKIPPED:
        pytest.skip(str(report.findings[0]))
    assert report.verdict is Verdict.PASSED, "\n".join(map(str, report.failures))
