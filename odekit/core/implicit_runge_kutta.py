"""Diagonally implicit Runge-Kutta methods: stages that are solved for, one after the other."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

from odekit.core.jacobian import Factored
from odekit.core.nonlinear import Newton, implicit_gradient, is_differentiated
from odekit.core.protocols import ODESolver, Step, VectorField
from odekit.core.runge_kutta import ButcherTableau, RungeKutta, combine, stage_times, weighted
from odekit.core.times import Time, coefficient, host
from odekit.core.tolerance import Tolerance
from odekit.errors import InputError, TableauError

_JACOBIANS = ("auto", "rows", "dense")


def _known_jacobian(instance: Any, attribute: Any, value: str) -> None:
    if value not in _JACOBIANS:
        raise InputError(f"jacobian={value!r}: expected one of {', '.join(map(repr, _JACOBIANS))}")


@attrs.frozen(eq=False)
class DiagonallyImplicitRungeKutta(RungeKutta):
    """A DIRK, SDIRK or ESDIRK method: a subclass names itself, its order and its tableau.

    Stage i solves Y = base + dt a_ii f(t_i, Y) with base = y0 + dt Σ_{j<i} a_ij k_j, and k_i = (Y - base)/(dt a_ii),
    which needs no further call of f and does not amplify what is left of the iteration's error on stiff problems.
    Gradients go through the implicit function theorem, not through the iteration. Hairer & Wanner, *Solving ODEs II*,
    IV.6 and IV.8.

    Attributes:
        newton: the settings of the iteration.
        jacobian: ``"rows"`` makes one block for each row of a batched state ``[B, ...]`` whose rows do not interact,
            ``"dense"`` one matrix for the whole state; ``"auto"`` finds out at the start of the solve, by one more
            evaluation, whether rows interact there (say ``"dense"`` if they begin to interact only later).
    """

    newton: Newton = attrs.field(factory=Newton)
    jacobian: str = attrs.field(default="auto", validator=_known_jacobian)

    implicit = True

    @classmethod
    def _check_shape(cls, tableau: ButcherTableau) -> None:
        if tableau.explicit:
            raise TableauError(f"{cls.__name__}: the tableau is explicit; derive from ExplicitRungeKutta")
        if not tableau.diagonally_implicit:
            raise TableauError(
                f"{cls.__name__}: stages depend on later ones; this base solves them one after the other"
            )
        if tableau.b_dense is not None:
            raise TableauError(f"{cls.__name__}: this base has the cubic Hermite interpolant only; leave b_dense out")

    def prepared(self, tolerance: Tolerance) -> ODESolver:
        return attrs.evolve(self, newton=attrs.evolve(self.newton, tolerance=tolerance))

    def init(self, f: VectorField, t0: Time, y0: Tensor, f0: Tensor | None = None) -> tuple[Tensor | None, bool]:
        """The slope at the start, if the first stage is explicit and it is known, and whether rows are independent."""
        rows = self.jacobian == "rows"
        if self.jacobian == "auto":
            rows = f.rows_are_independent(t0, y0.detach())
        return (f0 if self._first_is_explicit else None), rows

    @property
    def _first_is_explicit(self) -> bool:
        return self.tableau.c[0] == 0 and not any(self.tableau.a[0])

    def step(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: tuple[Tensor | None, bool]) -> Step:
        tableau, dt = self.tableau, t1 - t0
        slope, rows = carry
        times = stage_times(f, tableau.c, t0, t1)
        size = host(dt)
        linearised = f.linearised(t0, y0.detach(), rows)
        factored: dict[float, Factored] = {}
        ks: list[Tensor] = []
        y = y0
        for i, row in enumerate(tableau.a):
            base = combine(y0, dt, row[:i], ks)
            own = row[i] if i < len(row) else 0.0
            if own == 0:
                y = base
                ks.append(slope if i == 0 and slope is not None else f(times[i], y))
                continue
            with torch.no_grad():
                if own not in factored:
                    factored[own] = linearised.factored(size * own)
                solved = self.newton.solve(f, times[i], base, size * own, y, factored[own], rows)
            factored[own], y = solved.factors, solved.y
            if not solved.status.ok:
                return Step(t0, t1, y0, y, carry=carry, status=solved.status)
            if torch.is_grad_enabled() or is_differentiated(y):
                y = implicit_gradient(f, times[i], base, dt * own, y, rows)
            ks.append((y - base) / coefficient(dt * own, y))
        y1 = y if tableau.stiffly_accurate else combine(y0, dt, tableau.b, ks)
        error = None
        if tableau.b_error is not None:
            total = weighted(tableau.b_error, ks)
            error = total if total is None else coefficient(dt, y0) * total
        last = ks[-1] if tableau.stiffly_accurate and self._first_is_explicit else None
        return Step(t0, t1, y0, y1, error, carry=(last, rows), dense=ks)

    def densify(self, f: VectorField, step: Step) -> Step:
        ks, rows = step.dense, step.carry[1]
        f0 = ks[0] if self._first_is_explicit else f(step.t0, step.y0)
        f1 = ks[-1] if self.tableau.stiffly_accurate else f(step.t1, step.y1)
        return attrs.evolve(step, dense=(f0, f1), carry=(f1 if self._first_is_explicit else None, rows))
