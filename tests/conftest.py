"""What all tests share: which of the many solvers the default run takes through every test."""

from __future__ import annotations

import pytest
from problems import IRREVERSIBLE

SIBLINGS = {
    "adams_bashforth", "adaptive_heun", "fehlberg2", "gauss4", "gauss6", "heun3", "implicit_midpoint", "kvaerno5",
    "midpoint", "radau3", "ralston", "reversible_heun", "rk4-38", "rodas4", "rosenbrock23", "sdirk2", "ssprk3",
    "trbdf2", "vern7",
}  # fmt: skip
"""Solvers that share their base class with one that the default run tests throughout. Their order and their spans are
measured there too; the rest is left to the slow run."""

LATER = {"interpolated", "reversible"}
"""Gradient methods that the default run takes through these solvers only, wherever a test has both."""
THESE = {"dopri5", "kvaerno3"}

ALWAYS = {
    "test_observed_order",
    "test_f_is_never_called_outside_the_span",
    "test_registered_tableaus_have_exactly_their_order",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests of siblings as slow, but for those that every solver passes at all times.

    Pairs of a solver and a gradient method that refuses it are left out.
    """
    items[:] = [item for item in items if not _refused(item)]
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is None:
            continue
        named = {value for value in callspec.params.values() if isinstance(value, str)}
        later = named & LATER and callspec.params.get("solver", "dopri5") not in THESE
        if later or (named & SIBLINGS and getattr(item, "originalname", "") not in ALWAYS):
            item.add_marker(pytest.mark.slow)


def _refused(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    values = [] if callspec is None else [value for value in callspec.params.values() if isinstance(value, str)]
    return "reversible" in values and any(value in IRREVERSIBLE for value in values)
