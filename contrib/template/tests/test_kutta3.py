"""The solver is registered, and is what it claims to be."""

from __future__ import annotations

from importlib.metadata import version

from odekit_template.kutta3 import Kutta3

from odekit.registry import catalog
from odekit.testing import SolverSuite


class TestKutta3(SolverSuite):
    solver = Kutta3


def test_the_catalog_has_it():
    entry = catalog().entry("solver", "kutta3")
    assert (entry.object, entry.distribution, entry.version) == (Kutta3, "odekit-template", version("odekit-template"))
