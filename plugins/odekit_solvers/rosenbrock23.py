"""The low-order Rosenbrock method of ode23s."""

from __future__ import annotations

import math
from collections.abc import Callable

import odekit
from odekit.core.rosenbrock import RosenbrockMethod, RosenbrockTable


def _table() -> RosenbrockTable:
    """The stages of the paper's section 3.2, with the differences in its right-hand sides written out as Γ."""
    d, e = 1 / (2 + math.sqrt(2)), 6 + math.sqrt(2)
    return RosenbrockTable.classical(
        alpha=((), (1 / 2,), (0, 1)),
        gamma=((d,), (-d, d), ((e - 2) * d, -e * d, d)),
        b=(0, 1, 0),
        b_error=(1 / 6, -2 / 6, 1 / 6),
        dense=((1 / (1 - 2 * d), -1 / (1 - 2 * d), 0),),
    )


class Rosenbrock23(RosenbrockMethod):
    """An L-stable Rosenbrock method of order two with an estimate from one of order three: for crude tolerances.

    Shampine & Reichelt 1997, *The MATLAB ODE suite*, SIAM J. Sci. Comput. 18, section 3.2; the dense output of order
    two is their (3.12) in the weights of k_1 and k_2.
    """

    name = "rosenbrock23"
    order = 2
    table = _table()


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(Rosenbrock23)
