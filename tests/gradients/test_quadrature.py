"""Gauss-Legendre quadrature over backward steps: exact as far as its order says, and for which solvers it is enough."""

from __future__ import annotations

import pytest
from problems import SOLVERS, solver_class

from odekit.gradients.quadrature import gauss_legendre, keeps_up


@pytest.mark.parametrize("order", range(1, 9))
def test_polynomials_below_the_order_are_integrated_exactly(order: int) -> None:
    rule = gauss_legendre(order)
    assert len(rule) == (order + 1) // 2
    assert all(0 < node < 1 and weight > 0 for node, weight in rule)
    for degree in range(order):
        assert sum(weight * node**degree for node, weight in rule) == pytest.approx(1 / (degree + 1), rel=1e-14)
    wrong = sum(weight * node ** (2 * len(rule)) for node, weight in rule) - 1 / (2 * len(rule) + 1)
    assert abs(wrong) > 1e-10


def test_dense_output_may_be_one_order_behind() -> None:
    behind = {name for name in SOLVERS if not keeps_up(solver_class(name)())}
    assert {"dopri5", "tsit5", "dopri8", "rk4", "kvaerno3"}.isdisjoint(behind)
    assert {"radau5", "gauss6"} <= behind
