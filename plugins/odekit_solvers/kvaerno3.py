"""Kværnø's ESDIRK method of order three."""

from __future__ import annotations

from collections.abc import Callable

import odekit
from odekit.core.implicit_runge_kutta import DiagonallyImplicitRungeKutta
from odekit.core.runge_kutta import ButcherTableau


def _tableau() -> ButcherTableau:
    """The coefficients as functions of γ, the middle root of γ³ - 3γ² + 3γ/2 - 1/6 = 0."""
    g = 0.435866521508458999416019
    stage3 = ((-4 * g**2 + 6 * g - 1) / (4 * g), (1 - 2 * g) / (4 * g), g)
    stage4 = ((6 * g - 1) / (12 * g), -1 / ((24 * g - 12) * g), (-6 * g**2 + 6 * g - 1) / (6 * g - 3), g)
    return ButcherTableau(
        c=(0, 2 * g, 1, 1),
        a=((), (g, g), stage3, stage4),
        b=stage4,
        b_error=[b - embedded for b, embedded in zip(stage4, (*stage3, 0), strict=True)],
        b_dense=(
            (1, -1.0735700900697585, 0.3823800600465059),
            (0, 4.471690165265351, -2.98112677684357),
            (1.0452602553351018, -5.796240150391169, 3.5157400151490807),
            (-1.0452602553351018, 2.3981200751955774, -0.9169932983520166),
        ),
    )


class Kvaerno3(DiagonallyImplicitRungeKutta):
    """Kværnø's L-stable ESDIRK 3(2) pair. Kværnø 2004, *SDIRK methods with an explicit first stage*.

    The weights of its dense output are the only ones of order three that no infinitely stiff component makes grow, as
    those of the step: b_1 = Σ_{j>1} b_j (Ã⁻¹ ã)_j, with Ã the rows and columns of a from the second on and ã the rest
    of its first column. The paper has none.
    """

    name = "kvaerno3"
    order = 3
    tableau = _tableau()


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(Kvaerno3)
