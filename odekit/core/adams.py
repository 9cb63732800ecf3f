"""Adams methods on any grid: quadrature weights from the times of the past, and values to start from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from odekit.core.protocols import ODESolver, Step, VectorField
from odekit.core.runge_kutta import combine, stage_times
from odekit.core.times import Time, coefficient, host
from odekit.errors import InputError

Polynomial = tuple[float, ...]
"""Coefficients of θ, θ², ...: a polynomial that is 0 at θ = 0."""


Past = tuple[tuple[float, ...], tuple[Tensor, ...]]
"""What a multistep method remembers: the host times of some slopes, the latest first, and the slopes.

Only the ratios of those times to the next step matter, and they stay the same where a solve is differentiated with
respect to its output times.
"""


def integrals(nodes: Sequence[float]) -> list[Polynomial]:
    """∫_0^θ ℓ_j for the Lagrange polynomials ℓ_j of these nodes. Hairer, Nørsett & Wanner, *Solving ODEs I*, III.1.

    For the nodes 0, -1, -2, ... of the past that is a sum of positive terms, so that nothing cancels.
    """
    found = []
    for j, node in enumerate(nodes):
        product, scale = [1.0], 1.0
        for i, other in enumerate(nodes):
            if i != j:
                product = [low - other * high for low, high in zip([0.0, *product], [*product, 0.0], strict=True)]
                scale *= node - other
        found.append(tuple(value / (scale * (power + 1)) for power, value in enumerate(product)))
    return found


def weights(nodes: Sequence[float], theta: float = 1.0) -> list[float]:
    """∫_0^θ ℓ_j for the Lagrange polynomials ℓ_j of these nodes, as numbers."""
    return [at(polynomial, theta) for polynomial in integrals(nodes)]


def at(polynomial: Polynomial, theta: Any) -> Any:
    """The polynomial's value at ``theta``, a number or a tensor."""
    value: Any = 0.0
    for factor in reversed(polynomial):
        value = (value + factor) * theta
    return value


def known_order(order: Any) -> int:
    """The order, if there is a method of it.

    Raises:
        InputError: there is none.
    """
    if isinstance(order, bool) or not isinstance(order, int) or not 2 <= order <= 8:
        raise InputError(f"order={order!r}: Adams methods are here for the orders 2 to 8; give a whole number of these")
    return order


class Adams(ODESolver):
    """What Adams methods share: y1 = y0 + ∫ of a polynomial through slopes, on steps of any size and direction.

    The first step is divided into ``order`` - 1 equal parts, where Picard's iteration gives states and slopes, every
    sweep one order more; so the past is complete after it, and its error is estimated as that of any other step. Steps
    from there on cost what the method costs. The dense output is the method itself with a shorter step. Hairer,
    Nørsett & Wanner, *Solving ODEs I*, III.1 and III.5.
    """

    order = 4
    error_order = 3
    dense_order = 4

    @property
    @abstractmethod
    def memory(self) -> int:
        """How many slopes a step starts from."""

    @abstractmethod
    def follow(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, past: Past) -> Step:
        """A step from a complete past."""

    def init(self, f: VectorField, t0: Time, y0: Tensor, f0: Tensor | None = None) -> Past:
        return (host(t0),), (f(t0, y0) if f0 is None else f0,)

    def step(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Past) -> Step:
        times, slopes = carry
        if len(times) < self.memory:
            return self._start(f, t0, t1, y0, slopes[0])
        return self.follow(f, t0, t1, y0, carry)

    def nodes(self, t0: Time, t1: Time, past: Past) -> list[float]:
        """The times of the past in units of the step: 0 for its start, the others below."""
        begin, size = host(t0), host(t1 - t0)
        return [(time - begin) / size for time in past[0]]

    def remember(self, t1: Time, slope: Tensor, past: Past) -> Past:
        """The past of the next step."""
        times, slopes = past
        return (host(t1), *times[: self.memory - 1]), (slope, *slopes[: self.memory - 1])

    def densify(self, f: VectorField, step: Step) -> Step:
        return step

    def interpolate(self, step: Step, theta: Time) -> Tensor:
        polynomials, slopes = step.dense
        where, y = coefficient(theta, step.y0), step.y0
        dt = coefficient(step.t1 - step.t0, y)
        for polynomial, slope in zip(polynomials, slopes, strict=True):
            y = y + dt * at(polynomial, where) * slope
        return y

    def _start(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, slope: Tensor) -> Step:
        dt, count = t1 - t0, self.order
        nodes = [i / (count - 1) for i in range(count)]
        times = stage_times(f, nodes, t0, t1)
        rows = [weights(nodes, node) for node in nodes]

        def swept(slopes: list[Tensor]) -> list[Tensor]:
            return [combine(y0, dt, row, slopes) for row in rows[1:]]

        slopes = [slope] * count
        states = swept(slopes)
        y1 = lower = states[-1]
        for _ in range(count - 1):
            slopes = [slope, *map(f, times[1:], states)]
            states = swept(slopes)
            lower, y1 = y1, states[-1]
        ends = [slope, *map(f, times[1:], states)]
        begin, size = host(t0), host(dt)
        past = [begin + node * size for node in nodes[1:-1]]
        kept = slice(self.memory)
        carry = ((host(t1), *reversed(past), begin)[kept], tuple(reversed(ends))[kept])
        return Step(t0, t1, y0, y1, y1 - lower, carry, (integrals(nodes), slopes))
