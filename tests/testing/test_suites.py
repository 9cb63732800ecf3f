"""The suites as pytest runs them, and what is told of what fails."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import wrong
from odekit_data.toy import Moons
from odekit_models.odenet import StemOnly
from odekit_traces.estimators import Hutchinson
from torch import Tensor

from odekit.errors import InputError
from odekit.gradients import Direct
from odekit.testing import (
    SUITES,
    Check,
    DatasetSuite,
    DynamicsSuite,
    GradientSuite,
    ModelSuite,
    SolverSuite,
    TraceSuite,
    Verdict,
    examine,
)


class TestByHand(SolverSuite):
    solver = wrong.ByHand


class TestDirect(GradientSuite):
    gradient = Direct


class TestGaussianProbes(TraceSuite):
    trace = Hutchinson(noise="gaussian", probes=2)


class TestStemOnly(ModelSuite):
    model = StemOnly
    shape = (1, 8, 8)
    options = {"width": 8}  # noqa: RUF012


class TestRotation(DynamicsSuite):
    class Rotation:
        name = "rotation"

        def __call__(self, t: Tensor, y: Tensor) -> Tensor:
            return torch.stack([y[..., 1], -y[..., 0]], -1)

    dynamics = Rotation()
    y0 = torch.ones(3, 2)


class TestMoons(DatasetSuite):
    dataset = Moons
    options = {"train": 50, "valid": 20, "test": 20}  # noqa: RUF012


def check(kind: str, name: str) -> Check:
    return next(check for check in SUITES[kind].checks if check.name == name)


def test_a_failure_says_what_was_claimed_measured_and_expected() -> None:
    class Mine(SolverSuite):
        solver = wrong.StageTimes

    with pytest.raises(pytest.fail.Exception) as caught:
        Mine().test_check(check("solver", "order-in-time"))
    claim, finding = str(caught.value).splitlines()
    assert claim.startswith("The order is the same where f depends on time")
    assert "order-in-time: measured 1.0" in finding
    assert "expected 3 ± 0.2" in finding


def test_what_does_not_apply_is_skipped_with_the_reason() -> None:
    with pytest.raises(pytest.skip.Exception, match="no error estimate is declared"):
        TestByHand().test_check(check("solver", "error-order"))


def test_a_suite_without_its_subject_is_an_error_that_says_what_to_write() -> None:
    class Mine(SolverSuite):
        pass

    with pytest.raises(InputError, match=r"add `solver = \.\.\.`"):
        Mine().test_check(check("solver", "order"))


def test_an_exception_in_a_plugin_is_a_failure() -> None:
    class Raises(wrong.ByHand):
        def step(self, *_: object) -> None:
            raise ZeroDivisionError("in\nstep")

    report = examine("solver", "raises", Raises)
    assert report.verdict is Verdict.FAILED
    assert "ZeroDivisionError: in step" in str(report.failures[0])


def test_something_that_cannot_be_made_is_a_failure() -> None:
    class Asks(wrong.ByHand):
        def __init__(self, size: int) -> None:
            self.size = size

    (finding,) = examine("solver", "asks", Asks).findings
    assert finding.verdict is Verdict.FAILED
    assert "missing 1 required positional argument" in finding.measured


def test_every_check_has_a_name_of_its_own_and_a_claim() -> None:
    for suite in SUITES.values():
        names = [check.name for check in suite.checks]
        assert len(set(names)) == len(names)
        assert all(check.claim.endswith(".") for check in suite.checks)


@pytest.mark.slow
def test_neither_odekit_nor_its_testing_imports_pytest() -> None:
    code = "import sys, odekit.testing; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
