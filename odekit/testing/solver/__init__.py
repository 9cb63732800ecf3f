"""What a solver has to prove."""

from __future__ import annotations

from odekit.testing.checks import Checks
from odekit.testing.solver import conduct, derivatives, orders, states

SOLVER_CHECKS = Checks(orders.CHECKS, conduct.CHECKS, states.CHECKS, derivatives.CHECKS)
"""In the order in which they are reported."""
