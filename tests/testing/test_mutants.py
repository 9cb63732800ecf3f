"""Tableaus of the literature with one coefficient changed and its row sum kept: the measured order tells on each."""

from __future__ import annotations

from typing import Any

import pytest
import wrong
from problems import solver_class

from odekit.core.order_conditions import violations
from odekit.core.protocols import ODESolver
from odekit.testing import SUITES, Verdict

_SHARE = 0.02
"""Of the row's largest entry, by how much the coefficient changes."""

_DROWNED = 1e-5
"""An order condition missed by less is seen by algebra alone: rounding comes first. That is so for a few coefficients
of methods of the orders seven and eight, whose effect the other ones all but cancel."""


def mutant(original: Any, row: int, column: int, share: float) -> type[ODESolver]:
    """The method with ``a[row][column]`` changed, and another entry of the row by the same the other way."""
    tableau = original.tableau
    changed = list(tableau.a[row])
    change = share * max(map(abs, changed))
    changed[column] += change
    changed[column - 1] -= change
    a = (*tableau.a[:row], tuple(changed), *tableau.a[row + 1 :])
    return type("Mutant", (wrong.ByHand,), {"order": original.order, "c": tableau.c, "a": a, "b": tableau.b})


def order_of(solver: Any) -> Any:
    suite = SUITES["solver"]
    (check,) = [check for check in suite.checks if check.name == "order"]
    return check.run(suite.subject(solver))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["heun3", "bosh3", "rk4", "rk4-38", "dopri5", "tsit5", "vern7", "dopri8"])
def test_one_wrong_coefficient_that_keeps_the_row_sums_is_caught(name: str) -> None:
    original = solver_class(name)
    tableau = original.tableau
    assert order_of(mutant(original, 2, 1, 0.0)).verdict is Verdict.PASSED
    counts = {row: len(tableau.a[row]) for row in range(2, tableau.length) if len(tableau.a[row]) > 1}
    for row, width in counts.items():
        for column in range(1, width):
            changed: Any = mutant(original, row, column, _SHARE)
            missed = max(gap for gap, _ in violations(changed.a, changed.b, original.order))
            finding = order_of(changed)
            assert finding.verdict is Verdict.FAILED or missed < _DROWNED, (row, column, missed, finding)
