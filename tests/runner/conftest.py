"""The runner's tests have stub models and data in the catalog."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import runner_stubs

from odekit.registry import catalog


@pytest.fixture(autouse=True)
def stubs() -> Iterator[None]:
    """The catalog with the stubs; without them again afterwards."""
    catalog.cache_clear()
    runner_stubs.install()
    yield
    catalog.cache_clear()
