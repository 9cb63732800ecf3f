"""What odekit's solvers are held to, next to SciPy's, by counts and digits.

    python -m benchmarks.bars [NAME ...]

- *Stiff*, at rtol = 1e-6: some implicit solver gives 5 digits with at most 1.5 times the calls of f and 1.5 times the
  Jacobians of SciPy's Radau, which is handed the Jacobian.
- *Non-stiff*, at rtol = 1e-8: some solver gives 7 digits on every problem. Explicit ones come first; those of order
  seven and more are also tried with careful steps: control="predictive" and norm="max", so that no component hides
  behind the others. Where none of them passes, the cautious implicit ones are tried: of order four and more, with an
  error estimate of at most half that order, such as Gauss's methods. That estimate is far above the error, and so they
  have digits to spare where a problem amplifies errors, as the Arenstorf orbit does.

Solvers are those that are registered, so a new one takes part by itself.
"""

from __future__ import annotations

import sys
from typing import Any

import attrs
import torch

from benchmarks.measure import Measured, Patience, adaptive_solvers, ours, scipys
from benchmarks.problems import NONSTIFF, STIFF, Problem
from odekit.registry import catalog

STIFF_RTOL, STIFF_DIGITS, SHARE = 1e-6, 5.0, 1.5
NONSTIFF_RTOL, NONSTIFF_DIGITS = 1e-8, 7.0
CAREFUL = {"control": "predictive", "norm": "max"}
PATIENCE = 5
"""On a non-stiff problem a solver is given up when it has called f this many times as often as DOP853."""


@attrs.frozen
class Bar:
    """A problem, SciPy's solve of it, the best of ours and its solver, and whether that is good enough."""

    problem: Problem
    peer: Measured
    solver: str
    best: Measured
    passed: bool

    def line(self) -> str:
        """A row of the table."""
        cells = "".join(f"{m.digits:7.1f} {m.nfe:6} {m.jacobians:5}" for m in (self.peer, self.best))
        return f"{self.problem.name:16}{cells}   {self.solver:16} {'passed' if self.passed else 'NOT PASSED'}"


def stiff_bar(problem: Problem, solvers: list[str] | None = None) -> Bar:
    """How the best implicit solver does at rtol = 1e-6: of those that pass the one with the fewest calls of f."""
    peer = scipys(problem, "Radau", STIFF_RTOL)
    limit = SHARE * peer.nfe
    found = {
        name: ours(problem, name, STIFF_RTOL, Patience(limit)) for name in solvers or adaptive_solvers(implicit=True)
    }

    def passes(one: Measured) -> bool:
        return one.digits >= STIFF_DIGITS and one.nfe <= limit and one.jacobians <= SHARE * peer.jacobians

    return _best(problem, peer, found, {name: passes(one) for name, one in found.items()})


def nonstiff_bar(problem: Problem, explicit: list[str] | None = None, cautious: list[str] | None = None) -> Bar:
    """How the best solver does at rtol = 1e-8, of those that pass the one with the fewest calls of f.

    Cautious implicit solvers are tried only where no explicit one passes.
    """
    peer = scipys(problem, "DOP853", NONSTIFF_RTOL)
    patience = Patience(PATIENCE * peer.nfe)

    def tried(names: list[str], label: str = "{}", **options: Any) -> dict[str, Measured]:
        return {label.format(name): ours(problem, name, NONSTIFF_RTOL, patience, **options) for name in names}

    names = adaptive_solvers(implicit=False) if explicit is None else explicit
    found = tried(names) | tried([name for name in names if _order(name) >= 7], "{}, careful", **CAREFUL)
    if not any(_passes(one) for one in found.values()):
        found |= tried(cautious_solvers() if cautious is None else cautious)
    return _best(problem, peer, found, {name: _passes(one) for name, one in found.items()})


def cautious_solvers() -> list[str]:
    """The implicit solvers of order four and more whose error estimate has at most half that order."""
    implicit = {name: catalog().get("solver", name) for name in adaptive_solvers(implicit=True)}
    return [name for name, one in implicit.items() if one.order >= 4 and 2 * one.error_order <= one.order]


def _passes(one: Measured) -> bool:
    return one.digits >= NONSTIFF_DIGITS


def _order(name: str) -> int:
    return catalog().get("solver", name).order


def _best(problem: Problem, peer: Measured, found: dict[str, Measured], passed: dict[str, bool]) -> Bar:
    """Those that pass come first, by calls of f; then the others, by digits."""

    def rank(name: str) -> tuple[bool, float, int]:
        one = found[name]
        return not passed[name], 0.0 if passed[name] else -one.digits, one.nfe

    solver = min(found, key=rank)
    return Bar(problem, peer, solver, found[solver], passed[solver])


def main(names: list[str]) -> int:
    torch.set_num_threads(1)
    failed = 0
    sets = (
        (STIFF, stiff_bar, "Radau", STIFF_RTOL),
        (NONSTIFF, nonstiff_bar, "DOP853", NONSTIFF_RTOL),
    )
    for problems, bar, peer, rtol in sets:
        print(f"\nrtol = {rtol:g}{peer:>18} {'odekit':>19}\n{'':16}{' digits    nfe  jacs' * 2}")
        for problem in problems.values():
            if not names or problem.name in names:
                result = bar(problem)
                failed += not result.passed
                print(result.line(), flush=True)
    print(f"\n{failed} not passed" if failed else "\nall passed")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) > 0)
