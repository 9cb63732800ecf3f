"""The gradient methods that are compared, by the names that tables and figures give them."""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs

from odekit import Reversible, gradients
from odekit.core.protocols import GradientMethod, ODESolver
from odekit.core.runge_kutta import ExplicitRungeKutta
from odekit.solving import solver_named


@attrs.frozen
class Entry:
    """A method, made for a solve of about so many steps.

    Attributes:
        exact: whether it gives the gradient of the computed numbers.
        solver: the solver that it is shown with, where the usual one will not do.
    """

    make: Callable[[int], GradientMethod]
    exact: bool
    solver: str | None = None


def few(steps: int) -> int:
    """A budget of ten times the binary logarithm of the number of steps."""
    return max(1, math.ceil(10 * math.log2(max(steps, 2))))


METHODS: dict[str, Entry] = {
    "direct": Entry(lambda n: gradients.Direct(), True),
    "checkpointed": Entry(lambda n: gradients.Checkpointed(), True),
    "checkpointed, sqrt": Entry(lambda n: gradients.Checkpointed(budget="sqrt"), True),
    "checkpointed, 10 log2 N": Entry(lambda n: gradients.Checkpointed(budget=few(n)), True),
    "symplectic": Entry(lambda n: gradients.Symplectic(), True),
    "reversible": Entry(lambda n: gradients.Reversal(), True),
    "reversible, alf": Entry(lambda n: gradients.Reversal(), True, "alf"),
    "forward": Entry(lambda n: gradients.Forward(), True),
    "interpolated": Entry(lambda n: gradients.Interpolated(), False),
    "adjoint": Entry(lambda n: gradients.Adjoint(), False),
}


def stepping(method: GradientMethod, solver: str) -> ODESolver:
    """The solver whose steps a method takes when it is told this one."""
    found = solver_named(solver)
    if isinstance(method, gradients.Reversal) and isinstance(found, ExplicitRungeKutta):
        return Reversible(found, method.coupling)
    return found
