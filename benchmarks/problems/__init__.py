"""Initial value problems that the literature measures solvers with, and the answers.

``NONSTIFF`` and ``STIFF`` have them by name. ``python -m benchmarks.problems.references`` computes every answer again.
"""

from __future__ import annotations

from benchmarks.problems.classics import CLASSICS
from benchmarks.problems.detest import DETEST
from benchmarks.problems.problem import Problem
from benchmarks.problems.stiff import STIFF

NONSTIFF: dict[str, Problem] = {**DETEST, **CLASSICS}

__all__ = ["CLASSICS", "DETEST", "NONSTIFF", "STIFF", "Problem"]
