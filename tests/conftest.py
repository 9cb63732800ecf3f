"""What all tests share: which of the many solvers the default run takes through every test."""

from __future__ import annotations

import pytest

SIBLINGS = {
    "adams_bashforth", "adaptive_heun", "fehlberg2", "gauss4", "gauss6", "heun3", "implicit_midpoint", "kvaerno5",
    "midpoint", "radau3", "ralston", "reversible_heun", "rk4-38", "rodas4", "rosenbrock23", "sdirk2", "ssprk3",
    "trbdf2", "vern7",
}  # fmt: skip
"""Solvers that share their base class with one that the default run tests throughout. Their order and their spans are
measured there too; the rest is left to the slow run."""

ALWAYS = {
    "test_observed_order",
    "test_f_is_never_called_outside_the_span",
    "test_registered_tableaus_have_exactly_their_order",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests of siblings as slow, but for those that every solver passes at all times."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is None or getattr(item, "originalname", "") in ALWAYS:
            continue
        if any(isinstance(value, str) and value in SIBLINGS for value in callspec.params.values()):
            item.add_marker(pytest.mark.slow)
