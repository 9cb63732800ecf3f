"""The Adams methods that predict, evaluate, correct and evaluate: two calls of f a step."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from torch import Tensor

import odekit
from odekit.core.adams import Adams, Past, at, integrals, known_order, weights
from odekit.core.protocols import Step, VectorField
from odekit.core.runge_kutta import combine, weighted
from odekit.core.times import Time, coefficient


@attrs.frozen(eq=False, slots=False)
class AdamsBashforthMoulton(Adams):
    """An explicit Adams step, corrected once by the implicit one that is an order higher (PECE). Moulton 1926.

    The error is the distance to the implicit method of one order less. Hairer, Nørsett & Wanner, *Solving ODEs I*,
    III.5 and (III.7.3); Shampine & Gordon 1975, *Computer solution of ordinary differential equations*.

    Attributes:
        order: of the corrected step, from 2 to 8.
    """

    order: int = attrs.field(default=4, converter=known_order)
    error_order: int = attrs.field(init=False, default=attrs.Factory(lambda self: self.order - 1, takes_self=True))
    dense_order: int = attrs.field(init=False, default=attrs.Factory(lambda self: self.order, takes_self=True))

    name = "adams_bashforth_moulton"

    @property
    def memory(self) -> int:
        return self.order - 1

    def follow(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, past: Past) -> Step:
        dt, nodes = t1 - t0, self.nodes(t0, t1, past)
        (time,) = f.times((t1,))
        predicted = combine(y0, dt, weights(nodes), past[1])
        slopes = (f(time, predicted), *past[1])
        polynomials = integrals([1.0, *nodes])
        corrected = [at(polynomial, 1.0) for polynomial in polynomials]
        y1 = combine(y0, dt, corrected, slopes)
        lower = [*weights([1.0, *nodes[:-1]]), 0.0]
        total = weighted([a - b for a, b in zip(corrected, lower, strict=True)], slopes)
        error = None if total is None else coefficient(dt, y0) * total
        return Step(t0, t1, y0, y1, error, self.remember(t1, f(time, y1), past), (polynomials, slopes))


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(AdamsBashforthMoulton)
