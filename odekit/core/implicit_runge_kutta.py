"""Diagonally implicit Runge-Kutta methods: stages that are solved for, one after the other."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import attrs
import numpy as np
import torch
from torch import Tensor

from odekit.core import lanes
from odekit.core.linear import Auto, Linear, resolve_linear
from odekit.core.nonlinear import Newton, finite, implicit_gradient, pick
from odekit.core.protocols import ODESolver, Step, VectorField
from odekit.core.reuse import Kept, Linearisation, by_row
from odekit.core.runge_kutta import ButcherTableau, RungeKutta, combine, stage_times, weighted
from odekit.core.solution import Status
from odekit.core.times import Time, coefficient
from odekit.core.tolerance import Tolerance
from odekit.errors import TableauError


@attrs.frozen(eq=False)
class ImplicitRungeKutta(RungeKutta):
    """What all implicit Runge-Kutta methods share: how their equations are solved.

    Attributes:
        newton: the settings of the iteration.
        linear: how linear systems are solved: ``"dense"`` with one matrix for the whole state, ``"rows"`` with a block
            for each row of a batched state ``[B, ...]`` whose rows do not interact, ``"gmres"`` with no matrix at all,
            or an object such as :class:`~odekit.core.linear.GMRES`. ``"auto"`` finds out at the start of the solve, by
            one more evaluation, whether rows interact there (say ``"dense"`` if they begin to interact only later).
            Rows that have steps of their own do not interact; a matrix then is a block a row in any case.
    """

    newton: Newton = attrs.field(factory=Newton)
    linear: Linear = attrs.field(factory=Auto, converter=resolve_linear)

    implicit = True
    rowwise = True

    def prepared(self, tolerance: Tolerance) -> ODESolver:
        newton = attrs.evolve(self.newton, tolerance=tolerance)
        return attrs.evolve(self, newton=newton, linear=self.linear.prepared(newton.residual_allowed))

    def differentiable(self, times: int) -> ODESolver:
        return attrs.evolve(self, newton=self.newton.differentiable(times))

    def settled(self, f: VectorField, t0: Time, y0: Tensor) -> Linear:
        """How linear systems are solved in a solve from ``(t0, y0)``."""
        if by_row(t0):
            return self.linear.by_row()
        return self.linear.settled(lambda: f.rows_are_independent(t0, y0.detach()))


def verdicts(statuses: list[Status], by_rows: bool) -> dict[str, Any]:
    """The statuses of the systems as the fields of a :class:`~odekit.core.protocols.Step`."""
    worst = next((status for status in statuses if not status.ok), Status.SUCCESS)
    if not by_rows or worst.ok:
        return {"status": worst}
    return {"status": worst, "row_statuses": tuple(statuses)}


class Carry(NamedTuple):
    """What a diagonally implicit step hands to the next.

    Attributes:
        slope: f at its start, if it is a stage and known.
        linear: how linear systems are solved.
        kept: the Jacobian and what is known of it.
    """

    slope: Tensor | None
    linear: Linear
    kept: Kept


class DiagonallyImplicitRungeKutta(ImplicitRungeKutta):
    """A DIRK, SDIRK or ESDIRK method: a subclass names itself, its order and its tableau.

    Stage i solves Y = base + dt a_ii f(t_i, Y) with base = y0 + dt Σ_{j<i} a_ij k_j, and k_i = (Y - base)/(dt a_ii),
    which needs no further call of f and does not amplify what is left of the iteration's error on stiff problems.
    Iterations begin where the slopes of the stages before extrapolate to. An error estimate that does not vanish on
    infinitely stiff components is multiplied by (I - dt γ ∂f/∂y)⁻¹, which leaves its order as it is (Hosea & Shampine
    1996, *Analysis and implementation of TR-BDF2*). Gradients go through the implicit function theorem, not through
    the iteration. Hairer & Wanner, *Solving ODEs II*, IV.6 and IV.8.
    """

    @classmethod
    def _check_shape(cls, tableau: ButcherTableau) -> None:
        if tableau.explicit:
            raise TableauError(f"{cls.__name__}: the tableau is explicit; derive from ExplicitRungeKutta")
        if not tableau.diagonally_implicit:
            raise TableauError(
                f"{cls.__name__}: stages depend on later ones; this base solves them one after the other"
            )
        if tableau.c_dense:
            raise TableauError(
                f"{cls.__name__}: this base makes its dense output from the stages of the step alone; "
                "leave c_dense and a_dense out"
            )

    def init(self, f: VectorField, t0: Time, y0: Tensor, f0: Tensor | None = None) -> Carry:
        slope = f0 if self._first_is_explicit else None
        if slope is None and self._first_is_explicit and by_row(t0):
            slope = f(t0, y0)
        linear = self.settled(f, t0, y0)
        return Carry(slope, linear, Kept.begun(f, linear, t0, y0))

    @property
    def _first_is_explicit(self) -> bool:
        return self.tableau.c[0] == 0 and not any(self.tableau.a[0])

    def step(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Carry) -> Step:
        tableau, dt = self.tableau, t1 - t0
        slope, linear, kept = carry
        scheme = _scheme(tableau)
        times = stage_times(f, tableau.c, t0, t1)
        with torch.no_grad():
            matrix = Linearisation(f, linear, kept, t0, y0, dt, scheme.shifts)
        statuses = [Status.SUCCESS] * len(kept.serves)
        contraction, serves = kept.contraction, np.ones_like(kept.serves)
        ks: list[Tensor] = []
        y = y0
        for i, row in enumerate(tableau.a):
            base = combine(y0, dt, row[:i], ks)
            shift = scheme.shift_of[i]
            if shift is None:
                y = base
                ks.append(slope if i == 0 and slope is not None else f(times[i], y))
                continue
            own = dt * row[i]
            with torch.no_grad():
                stage = Stage(f, times[i], base, coefficient(own, y0), matrix, shift, self.newton)
                ahead = weighted(scheme.predictors[i], ks)
                guess = y if ahead is None else base + stage.h * ahead
                solved = self.newton.solve(stage, guess, contraction, statuses)
            statuses, contraction = solved.statuses, solved.contraction
            serves, y = (serves & solved.serves) | matrix.renewed, solved.y
            if not any(status.ok for status in statuses):
                break
            if torch.is_grad_enabled() or lanes.differentiated(y):
                y = implicit_gradient(f, times[i], base, own, y, linear, self.newton.derivatives)
            ks.append((y - base) / coefficient(own, y))
        again = matrix.to_retry()
        retry = None if again is None else carry._replace(kept=again)
        said = verdicts(statuses, by_row(t0))
        if len(ks) < len(tableau.b):
            return Step(t0, t1, y0, y, carry=carry, retry=retry, **said)
        y1 = y if tableau.stiffly_accurate else combine(y0, dt, tableau.b, ks)
        error = None
        if tableau.b_error is not None:
            total = weighted(tableau.b_error, ks)
            error = total if total is None else coefficient(dt, y0) * total
            if scheme.filtered and error is not None:
                with torch.no_grad():
                    error = matrix.solver(len(scheme.shifts) - 1).solve(error)
        last = ks[-1] if tableau.stiffly_accurate and self._first_is_explicit else None
        handed = Carry(last, linear, matrix.to_keep(contraction, serves))
        return Step(t0, t1, y0, y1, error, carry=handed, dense=ks, retry=retry, **said)

    def densify(self, f: VectorField, step: Step) -> Step:
        if self.tableau.b_dense is not None:
            return step
        ks = step.dense
        f0 = ks[0] if self._first_is_explicit else f(step.t0, step.y0)
        f1 = ks[-1] if self.tableau.stiffly_accurate else f(step.t1, step.y1)
        carry = step.carry._replace(slope=f1) if self._first_is_explicit else step.carry
        return attrs.evolve(step, dense=(f0, f1), carry=carry)


@attrs.frozen
class _Scheme:
    """What follows from a diagonally implicit tableau.

    Attributes:
        shifts: its different diagonal entries.
        shift_of: for every stage, which of them is its own; None for an explicit stage.
        predictors: for every stage, weights that extrapolate the slopes before it to its node.
        filtered: whether the error estimate stays away from zero on infinitely stiff components.
    """

    shifts: tuple[float, ...]
    shift_of: tuple[int | None, ...]
    predictors: tuple[tuple[float, ...], ...]
    filtered: bool


@functools.cache
def _scheme(tableau: ButcherTableau) -> _Scheme:
    s = len(tableau.b)
    own = [row[i] if i < len(row) else 0.0 for i, row in enumerate(tableau.a)]
    shifts = tuple(dict.fromkeys(value for value in own if value))
    predictors = [_extrapolated(tableau.c[:i], tableau.c[i]) for i in range(s)]
    at_infinity = 0.0
    if tableau.b_error is not None:
        a, z = np.zeros((s, s)), -1e8
        for i, row in enumerate(tableau.a):
            a[i, : len(row)] = row
        at_infinity = abs(float(z * np.asarray(tableau.b_error) @ np.linalg.solve(np.eye(s) - z * a, np.ones(s))))
    shift_of = tuple(shifts.index(value) if value else None for value in own)
    return _Scheme(shifts, shift_of, tuple(predictors), at_infinity > 1e-3)


def _extrapolated(nodes: tuple[float, ...], at: float) -> tuple[float, ...]:
    """Weights of the slopes at ``nodes`` in their polynomial at ``at``: through the last three different nodes.

    Of several slopes at one node the latest counts.
    """
    chosen: list[int] = []
    for i in reversed(range(len(nodes))):
        if len(chosen) < 3 and all(abs(nodes[i] - nodes[k]) > 1e-3 for k in chosen):
            chosen.append(i)
    weights = [0.0] * len(nodes)
    for i in chosen:
        weights[i] = float(np.prod([(at - nodes[k]) / (nodes[i] - nodes[k]) for k in chosen if k != i]))
    return tuple(weights)


@attrs.frozen(eq=False)
class Stage:
    """The equations of one stage, y = base + h f(t, y)."""

    f: VectorField
    t: Tensor
    base: Tensor
    h: float | Tensor
    matrix: Linearisation
    shift: int
    newton: Newton

    @property
    def whole(self) -> bool:
        return self.matrix.solver(self.shift).whole

    def residual(self, y: Tensor) -> Tensor:
        return self.base + self.h * self.f(self.t, y) - y

    def correction(self, residual: Tensor) -> Tensor:
        return self.matrix.solver(self.shift).solve(residual)

    def size(self, update: Tensor, y: Tensor) -> Tensor:
        return self.newton.tolerance.norm(update / self.newton.unit(y))

    def renew(self, y: Tensor, wanted: np.ndarray) -> np.ndarray:
        self.matrix.renew(self.t, y, wanted)
        return wanted

    def pick(self, which: np.ndarray, a: Tensor, b: Tensor) -> Tensor:
        return pick(which, a, b, 0)

    def finite(self, x: Tensor) -> np.ndarray:
        return finite(x, len(self.matrix.at_start), 0)
