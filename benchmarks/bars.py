"""What odekit's solvers are held to, next to SciPy's, by counts and digits.

    python -m benchmarks.bars [NAME ...]

- *Stiff*, at rtol = 1e-6: some implicit solver gives 5 digits with at most 1.5 times the calls of f and 1.5 times the
  Jacobians of SciPy's Radau, which is handed the Jacobian.
- *Non-stiff*, at rtol = 1e-8: some explicit solver gives 7 digits; on problems that amplify errors, half a digit less
  than SciPy's DOP853 at the same tolerance.

Solvers are those that are registered, so a new one takes part by itself.
"""

from __future__ import annotations

import sys

import attrs
import torch

from benchmarks.measure import Measured, adaptive_solvers, ours, scipys
from benchmarks.problems import NONSTIFF, STIFF, Problem

STIFF_RTOL, STIFF_DIGITS, SHARE = 1e-6, 5.0, 1.5
NONSTIFF_RTOL, NONSTIFF_DIGITS, SLACK = 1e-8, 7.0, 0.5
PATIENCE = 4
"""An explicit solver is given up when it has called f this many times as often as DOP853."""


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
    found = {name: ours(problem, name, STIFF_RTOL, limit) for name in solvers or adaptive_solvers(implicit=True)}

    def passes(one: Measured) -> bool:
        return one.digits >= STIFF_DIGITS and one.nfe <= limit and one.jacobians <= SHARE * peer.jacobians

    return _best(problem, peer, found, {name: passes(one) for name, one in found.items()})


def nonstiff_bar(problem: Problem, solvers: list[str] | None = None) -> Bar:
    """How the best explicit solver does at rtol = 1e-8."""
    peer = scipys(problem, "DOP853", NONSTIFF_RTOL)
    wanted = min(NONSTIFF_DIGITS, peer.digits - SLACK)
    names = solvers or adaptive_solvers(implicit=False)
    found = {name: ours(problem, name, NONSTIFF_RTOL, PATIENCE * peer.nfe) for name in names}
    return _best(problem, peer, found, {name: one.digits >= wanted for name, one in found.items()})


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
    sets = ((STIFF, stiff_bar, "Radau", STIFF_RTOL), (NONSTIFF, nonstiff_bar, "DOP853", NONSTIFF_RTOL))
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
