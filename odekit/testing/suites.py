"""The suites that a plugin's own tests inherit: pytest's view of the checks.

pytest is imported when a test runs, and not before.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from odekit.core.protocols import Dataset, GradientMethod, Model, ODESolver, TraceEstimator
from odekit.errors import InputError
from odekit.testing.checks import Check, Verdict
from odekit.testing.kinds import SUITES


class PytestSuite:
    """One test for each check of a kind. Subclasses say what is tested, and their names begin with ``Test``."""

    kind: ClassVar[str]

    @classmethod
    def settings(cls) -> dict[str, Any]:
        """Keyword arguments for making the subject."""
        return {}

    @classmethod
    def subject(cls) -> Any:
        """What the checks work on, made once for all of them.

        Raises:
            InputError: the class does not say what is to be tested.
        """
        if "_subject" not in cls.__dict__:
            given = getattr(cls, cls.kind, None)
            if given is None:
                raise InputError(f"{cls.__name__} tests nothing; add `{cls.kind} = ...`, a class or an instance")
            cls._subject = SUITES[cls.kind].subject(given, **cls.settings())  # type: ignore[attr-defined]
        return cls.__dict__["_subject"]

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Called by pytest: one test for each check."""
        if "check" in metafunc.fixturenames:
            metafunc.parametrize("check", list(SUITES[self.kind].checks), ids=lambda check: check.name)

    def test_check(self, check: Check) -> None:
        """Called by pytest: the check holds."""
        import pytest

        finding = check.run(self.subject())
        if finding.verdict is Verdict.SKIPPED:
            pytest.skip(str(finding))
        if finding.verdict is Verdict.FAILED:
            pytest.fail(f"{check.claim}\n{finding}", pytrace=False)


class SolverSuite(PytestSuite):
    """``class TestMine(SolverSuite): solver = Mine`` proves a solver, given as a class or an instance."""

    kind = "solver"
    solver: ClassVar[type[ODESolver] | ODESolver]


class GradientSuite(PytestSuite):
    """``class TestMine(GradientSuite): gradient = Mine`` proves a gradient method, given as a class or an instance."""

    kind = "gradient"
    gradient: ClassVar[type[GradientMethod] | GradientMethod]


class TraceSuite(PytestSuite):
    """``class TestMine(TraceSuite): trace = Mine`` proves a trace estimator, given as a class or an instance."""

    kind = "trace"
    trace: ClassVar[type[TraceEstimator] | TraceEstimator]


class ModelSuite(PytestSuite):
    """``class TestMine(ModelSuite): model = Mine`` proves a model.

    Class attributes:
        shape: of the samples to build it for; None for the first usual shape that it takes.
        options: its own, such as small widths that make the tests fast.
    """

    kind = "model"
    model: ClassVar[type[Model]]
    shape: ClassVar[tuple[int, ...] | None] = None
    options: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def settings(cls) -> dict[str, Any]:
        return {"shape": cls.shape, "options": cls.options}


class DynamicsSuite(PytestSuite):
    """``class TestMine(DynamicsSuite): dynamics = Mine`` proves a vector field.

    Class attributes:
        y0: a state for it; None for what its method ``example()`` returns, or else for a batch of rows that it takes.
    """

    kind = "dynamics"
    dynamics: ClassVar[Any]
    y0: ClassVar[Any] = None

    @classmethod
    def settings(cls) -> dict[str, Any]:
        return {"y0": cls.y0}


class DatasetSuite(PytestSuite):
    """``class TestMine(DatasetSuite): dataset = Mine`` proves a dataset.

    Class attributes:
        folder: where its files are; None for the folder that the environment variable ``ODEKIT_DATA`` names.
        options: its own, such as small sizes that make the tests fast.
    """

    kind = "dataset"
    dataset: ClassVar[type[Dataset]]
    folder: ClassVar[Path | None] = None
    options: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def settings(cls) -> dict[str, Any]:
        place = os.environ.get("ODEKIT_DATA")
        return {"folder": cls.folder or (Path(place) if place else None), "options": cls.options}
