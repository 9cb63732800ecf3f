"""What odekit's solvers are held to, next to SciPy's, by counts and digits.

    python -m benchmarks.bars [NAME ...]

- *Stiff*, at rtol = 1e-6: some implicit solver gives 5 digits with at most 1.5 times the calls of f and 1.5 times the
  Jacobians of SciPy's Radau, which is handed the Jacobian.
- *Non-stiff*, at rtol = 1e-8: some explicit solver gives 7 digits. Those of order seven and more are also tried with
  careful steps: control="predictive" and norm="max", so that no component hides behind the others.
- *The Arenstorf orbit* multiplies relative errors by up to 3e6 on its way, so that 7 digits at the end take relative
  errors of 3e-14 at the start. There some explicit solver gives them at rtol = 1e-11, as DOP853 does, and at 1e-8 no
  fewer digits than DOP853, which gives 4.1.

Solvers are those that are registered, so a new one takes part by itself.
"""

from __future__ import annotations

import sys

import attrs
import torch

from benchmarks.measure import Measured, adaptive_solvers, ours, scipys
from benchmarks.problems import NONSTIFF, STIFF, Problem
from odekit.registry import catalog

STIFF_RTOL, STIFF_DIGITS, SHARE = 1e-6, 5.0, 1.5
NONSTIFF_RTOL, NONSTIFF_DIGITS = 1e-8, 7.0
UNSTABLE_RTOL = 1e-11
UNSTABLE = ("arenstorf",)
"""Problems that amplify errors so much that rtol = 1e-8 leaves no 7 digits to anybody."""
CAREFUL = {"control": "predictive", "norm": "max"}
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


def nonstiff_bar(problem: Problem, solvers: list[str] | None = None, rtol: float = NONSTIFF_RTOL) -> Bar:
    """How the best explicit solver does, of those that pass the one with the fewest calls of f."""
    peer = scipys(problem, "DOP853", rtol)
    wanted = peer.digits if problem.name in UNSTABLE and rtol > UNSTABLE_RTOL else NONSTIFF_DIGITS
    names, limit = solvers or adaptive_solvers(implicit=False), PATIENCE * peer.nfe
    found = {name: ours(problem, name, rtol, limit) for name in names}
    found |= {f"{name}, careful": ours(problem, name, rtol, limit, **CAREFUL) for name in names if _high_order(name)}
    return _best(problem, peer, found, {name: one.digits >= wanted for name, one in found.items()})


def unstable_bar(problem: Problem, solvers: list[str] | None = None) -> Bar:
    """The bar of 7 digits at the tolerance that a problem takes which amplifies errors."""
    return nonstiff_bar(problem, solvers, UNSTABLE_RTOL)


def _high_order(name: str) -> bool:
    return catalog().get("solver", name).order >= 7


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
    unstable = {name: NONSTIFF[name] for name in UNSTABLE}
    sets = (
        (STIFF, stiff_bar, "Radau", STIFF_RTOL),
        (NONSTIFF, nonstiff_bar, "DOP853", NONSTIFF_RTOL),
        (unstable, unstable_bar, "DOP853", UNSTABLE_RTOL),
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
