"""The checks of every kind, and how a registered thing is made ready for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from odekit.testing.checks import Checks, Finding, Report, Verdict
from odekit.testing.dataset import DATASET_CHECKS, DatasetSubject
from odekit.testing.dynamics import DYNAMICS_CHECKS, DynamicsSubject
from odekit.testing.gradient import GRADIENT_CHECKS
from odekit.testing.gradient.values import GradientSubject
from odekit.testing.model import MODEL_CHECKS, ModelSubject
from odekit.testing.solver import SOLVER_CHECKS
from odekit.testing.solver.subject import SolverSubject
from odekit.testing.trace import TRACE_CHECKS, TraceSubject


@attrs.frozen
class Suite:
    """What things of a kind have to prove.

    Attributes:
        subject: makes what the checks work on from what is registered, with keyword arguments of its own.
    """

    checks: Checks
    subject: Callable[..., Any]


SUITES: Mapping[str, Suite] = {
    "solver": Suite(SOLVER_CHECKS, SolverSubject.of),
    "gradient": Suite(GRADIENT_CHECKS, GradientSubject.of),
    "trace": Suite(TRACE_CHECKS, TraceSubject.of),
    "model": Suite(MODEL_CHECKS, ModelSubject.of),
    "dynamics": Suite(DYNAMICS_CHECKS, DynamicsSubject.of),
    "dataset": Suite(DATASET_CHECKS, DatasetSubject),
}
"""By the kinds of the registry."""


def examine(kind: str, name: str, thing: Any, folder: Path | None = None) -> Report:
    """Run all checks of a kind on a class or an instance; nothing that goes wrong in it gets out of here.

    Args:
        folder: where the files of datasets are.
    """
    began = time.perf_counter()
    suite = SUITES[kind]
    try:
        subject = suite.subject(thing, folder=folder) if kind == "dataset" else suite.subject(thing)
    except Exception as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        findings = [Finding("made", Verdict.FAILED, said, f"a {kind} that can be made and tried as it stands")]
    else:
        findings = [check.run(subject) for check in suite.checks]
    return Report(name, kind, tuple(findings), time.perf_counter() - began)
