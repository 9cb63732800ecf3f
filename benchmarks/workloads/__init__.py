"""The workloads by name. Each is made afresh, always the same."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.workloads import ffjord, latent, odenet, scaling, w1, w2, w3, w4, w5, w6, w7, w8
from benchmarks.workloads.work import Work

MEASURED: dict[str, Callable[[], Work]] = {
    name: make
    for module in (w1, w2, w3, w4, w5, w6, w7, w8, ffjord, odenet, latent)
    for name, make in module.CASES.items()
}
CASES: dict[str, Callable[[], Work]] = {**MEASURED, **scaling.CASES}
IN_MEMORY = frozenset(w8.CASES)
"""Those in which memory counts rather than time."""


def matching(names: list[str]) -> list[str]:
    """The cases that these names stand for: a case's own, or the beginning of several, such as W3 or W3h.

    Raises:
        SystemExit: a name stands for none.
    """
    found: dict[str, None] = {}
    for name in names:
        cases = [case for case in CASES if case == name] or [case for case in MEASURED if case.startswith(name)]
        if not cases:
            raise SystemExit(f"no workload is called {name!r}; there are {', '.join(MEASURED)}")
        found.update(dict.fromkeys(cases))
    return list(found)
