"""Any explicit Runge-Kutta method made reversible, by a companion that goes along with the state."""

from __future__ import annotations

import math
from typing import Any

import attrs
from torch import Tensor

from odekit.core.protocols import ODESolver, Step, VectorField
from odekit.core.reversible import UndoingSolver, Undone, leaf
from odekit.core.runge_kutta import ExplicitRungeKutta
from odekit.core.times import Time, coefficient
from odekit.errors import InputError


def _solver(given: Any) -> ExplicitRungeKutta:
    made = given() if isinstance(given, type) and issubclass(given, ODESolver) else given
    if not isinstance(made, ExplicitRungeKutta):
        named = repr(made.name) if isinstance(made, ODESolver) else f"{given!r:.80}"
        raise InputError(
            f"Reversible({named}): expected an explicit Runge-Kutta method, an ExplicitRungeKutta instance or class, "
            "not its name"
        )
    return made


def coupling_in_range(instance: Any, attribute: Any, value: Any) -> None:
    """Raise InputError unless ``value`` is a number in (0, 1]."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and 0 < value <= 1):
        raise InputError(f"coupling={value!r}: expected a number in (0, 1], such as 0.999")


@attrs.frozen(eq=False)
class Reversible(UndoingSolver):
    """An explicit Runge-Kutta method of order k as a reversible method of order k, at twice its calls of f.

    With Ψ_h(t, y) the increment of the method's step by h from (t, y), λ the coupling, and a companion z of the state,
    z(t0) = y0:

        y1 = λ y0 + (1 - λ) z0 + Ψ_h(t0, z0),  z1 = z0 - Ψ_{-h}(t1, y1)

    and back

        z0 = z1 + Ψ_{-h}(t1, y1),  y0 = (y1 - (1 - λ) z0 - Ψ_h(t0, z0)) / λ.

    McCallum & Foster 2024, *Efficient, accurate and stable gradients for neural ODEs*, Section 3.

    The distance y - z grows by λ exp(h κ) a step where the problem decays at the rate κ: as the decay undone, unless
    steps are shorter than -log(λ)/κ. It does so whatever the method. On the way back it grows by 1/λ a step, and with
    it what rounding left there: a hundredfold in 4600 steps of λ = 0.999, in 44 of λ = 0.9. Problems that decay much
    want a smaller λ, long ones without decay a larger one. The error estimate is that of the step from z, with the
    distance of z1 to where that leads added, so that adaptive steps become as short as it takes; fixed steps do not.
    Dense output is that of the step from z, moved by the distance from z to y, which shrinks by λ in its course.

    Attributes:
        solver: the method, an instance or a class.
        coupling: λ, in (0, 1].

    Raises:
        InputError: ``solver`` is no explicit Runge-Kutta method, or ``coupling`` lies outside (0, 1].
    """

    solver: ExplicitRungeKutta = attrs.field(converter=_solver)
    coupling: float = attrs.field(default=0.999, validator=coupling_in_range)

    rowwise = True

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"Reversible({self.solver.name})"

    @property
    def order(self) -> int:  # type: ignore[override]
        return self.solver.order

    @property
    def error_order(self) -> int | None:  # type: ignore[override]
        return self.solver.error_order

    @property
    def dense_order(self) -> int:  # type: ignore[override]
        return self.solver.dense_order

    def init(self, f: VectorField, t0: Time, y0: Tensor, f0: Tensor | None = None) -> Tensor:
        return y0

    def step(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Tensor) -> Step:
        return self._completed(f, self.solver.step(f, t0, t1, carry, None), y0)

    def advance(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Tensor) -> Step:
        return self._completed(f, self.solver.advance(f, t0, t1, carry, None), y0)

    def _completed(self, f: VectorField, ahead: Step, y0: Tensor) -> Step:
        """The step of the pair (y0, z0), where ``ahead`` is the method's own one from z0."""
        z0 = ahead.y0
        y1 = ahead.y1 + self.coupling * (y0 - z0)
        z1 = z0 + (y1 - self._end(f, ahead.t1, ahead.t0, y1))
        error = None if ahead.error is None else ahead.error + (z1 - ahead.y1)
        return Step(ahead.t0, ahead.t1, y0, y1, error, z1, attrs.astuple(ahead, recurse=False))

    def reverse(self, f: VectorField, t0: Time, t1: Time, y1: Tensor, carry: Tensor) -> tuple[Tensor, Tensor]:
        z0 = carry - (y1 - self._end(f, t1, t0, y1))
        return z0 + (y1 - self._end(f, t0, t1, z0)) / self.coupling, z0

    def undo(self, f: VectorField, t0: Time, t1: Time, y1: Tensor, carry: Tensor) -> Undone:
        y1 = leaf(y1)
        moved = y1 - self._end(f, t1, t0, y1)
        z0 = leaf(carry - moved)
        ahead = self.solver.advance(f, t0, t1, z0, None)
        y0 = leaf(z0 + (y1 - ahead.y1) / self.coupling)
        step = Step(t0, t1, y0, y1, None, z0 + moved, attrs.astuple(ahead, recurse=False))
        return Undone(step, z0, ((y1, ahead.y1 + self.coupling * (y0 - z0)),))

    def _end(self, f: VectorField, t0: Time, t1: Time, y0: Tensor) -> Tensor:
        """Where the method's step leads, in either direction of time."""
        return self.solver.replay(f, t0, t1, y0, None)

    def densify(self, f: VectorField, step: Step) -> Step:
        ahead = self.solver.densify(f, Step(*step.dense))
        return attrs.evolve(step, dense=attrs.astuple(ahead, recurse=False))

    def interpolate(self, step: Step, theta: Time) -> Tensor:
        ahead = Step(*step.dense)
        left = 1 - (1 - self.coupling) * coefficient(theta, step.y0)
        return self.solver.interpolate(ahead, theta) + left * (step.y0 - ahead.y0)

    def derivative(self, step: Step, theta: Time) -> Tensor:
        ahead = Step(*step.dense)
        lost = (1 - self.coupling) / coefficient(step.t1 - step.t0, step.y0)
        return self.solver.derivative(ahead, theta) - lost * (step.y0 - ahead.y0)
