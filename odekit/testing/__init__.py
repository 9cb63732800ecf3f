"""For authors of plugins: suites that prove what a plugin claims.

>>> from odekit.testing import SolverSuite
>>> class TestMine(SolverSuite):
...     solver = Mine

pytest then runs one test for each check of the kind. :func:`examine` runs the same checks without pytest, and so does
``odekit check``.
"""

from __future__ import annotations

from odekit.testing.checks import Check, Finding, Report, Verdict
from odekit.testing.kinds import SUITES, examine
from odekit.testing.suites import DatasetSuite, DynamicsSuite, GradientSuite, ModelSuite, SolverSuite, TraceSuite

__all__ = [
    "SUITES", "Check", "DatasetSuite", "DynamicsSuite", "Finding", "GradientSuite", "ModelSuite", "Report",
    "SolverSuite", "TraceSuite", "Verdict", "examine",
]  # fmt: skip
