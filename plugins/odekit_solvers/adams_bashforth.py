"""The explicit Adams methods: one call of f a step, whatever the order."""

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
class AdamsBashforth(Adams):
    """The polynomial through the ``order`` latest slopes, integrated over the step. Bashforth & Adams 1883.

    The error is that of the method one order lower, by its distance to the implicit method, which knows the slope at
    the end: Milne's device. Hairer, Nørsett & Wanner, *Solving ODEs I*, (III.1.5) and III.5.

    Attributes:
        order: from 2 to 8. The higher, the smaller the steps that are stable: on y' = λy with a negative λ about
            h|λ| < 1, 0.55, 0.3, 0.16, 0.09, 0.05, 0.02 for the orders 2, 3, ... 8.
    """

    order: int = attrs.field(default=4, converter=known_order)
    error_order: int = attrs.field(init=False, default=attrs.Factory(lambda self: self.order - 1, takes_self=True))
    dense_order: int = attrs.field(init=False, default=attrs.Factory(lambda self: self.order, takes_self=True))

    name = "adams_bashforth"

    @property
    def memory(self) -> int:
        return self.order

    def follow(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, past: Past) -> Step:
        dt, slopes, nodes = t1 - t0, past[1], self.nodes(t0, t1, past)
        polynomials = integrals(nodes)
        y1 = combine(y0, dt, [at(polynomial, 1.0) for polynomial in polynomials], slopes)
        f1 = f(t1, y1)
        implicit, lower = weights([1.0, *nodes[:-1]]), weights(nodes[:-1])
        gap = [implicit[0], *(a - b for a, b in zip(implicit[1:], lower, strict=True))]
        total = weighted(gap, [f1, *slopes])
        error = None if total is None else coefficient(dt, y0) * total
        return Step(t0, t1, y0, y1, error, self.remember(t1, f1, past), (polynomials, slopes))


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(AdamsBashforth)
