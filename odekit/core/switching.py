"""A method that is explicit while a problem is not stiff, and a Rosenbrock method while it is."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import attrs
import numpy as np
import torch
from torch import Tensor

from odekit.core import lanes
from odekit.core.linear import Auto, Linear, resolve_linear
from odekit.core.protocols import ODESolver, Step, VectorField
from odekit.core.rosenbrock import RosenbrockMethod
from odekit.core.runge_kutta import ButcherTableau, ExplicitRungeKutta, weighted
from odekit.core.times import Time, coefficient
from odekit.errors import TableauError

_TO_STIFF, _TO_NONSTIFF = 0.9, 0.5
"""Which part of the boundary of stability dt ρ must exceed, or stay below, to ask for the other method."""

_PATIENCE = {False: 15, True: 5}
"""How often a step of the nonstiff, of the stiff method must ask for the other one until it gets its way."""

_FORGIVEN = 6
"""After so many steps in a row that do not ask, the count begins anew."""


class Carry(NamedTuple):
    """What one step leaves to the next.

    Attributes:
        stiff: whether the stiff method takes the next step.
        asked: how many steps of late asked for the other method.
        quiet: how many did not since the last one that did.
        own: the carry of the method in charge.
    """

    stiff: bool
    asked: int
    quiet: int
    own: Any


@attrs.frozen(eq=False)
class Made:
    """The dense output of a step, and the method that made it."""

    method: ODESolver
    dense: Any


@attrs.frozen(eq=False)
class Switching(ODESolver):
    """A subclass names itself and two methods whose error estimates are of one order, and is complete.

    The explicit method begins. With ρ the modulus of the dominant eigenvalue of ∂f/∂y, its steps are bounded by
    stability where dt ρ is near the end of its interval of stability on the negative real axis. There the problem is
    stiff. ρ is estimated from two stages at the same time, ‖f(t, Y) - f(t, Y')‖ / ‖Y - Y'‖, for no further call of f:
    Shampine 1977, *Stiffness and nonstiff differential equation solvers II*; Hairer & Wanner, *Solving ODEs II*, IV.2.
    The stiff method has the Jacobian, and bounds ρ by its norm. A switch needs fifteen steps with dt ρ above 0.9 of
    that boundary, or five with dt ρ below half of it; six steps in a row on the right side start the count anew.

    Each decision reads one number from the device, one an attempted step; fixed steps decide as well. After a
    discontinuity the explicit method begins again. A step's dense output is that of the method that made it.

    Class attributes:
        nonstiff, stiff: the two methods.
        boundary: where the interval of stability ends, made of the explicit method's tableau.

    Attributes:
        linear: how the stiff method solves linear systems, as for a :class:`~odekit.core.rosenbrock.RosenbrockMethod`.

    Raises:
        TableauError: at class creation, if the orders of the error estimates differ, or if the explicit method's last
            two stages are not at one time.
    """

    linear: Linear = attrs.field(factory=Auto, converter=resolve_linear)

    nonstiff: ClassVar[type[ExplicitRungeKutta]]
    stiff: ClassVar[type[RosenbrockMethod]]
    boundary: ClassVar[float]

    implicit = True

    def __attrs_post_init__(self) -> None:
        self._method(stiff=True)  # which knows what linear may be

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "nonstiff" not in cls.__dict__:
            return
        one, other = cls.nonstiff, cls.stiff
        if one.error_order is None or one.error_order != other.error_order:
            raise TableauError(
                f"{cls.__name__}: the error estimates of {one.name!r} and {other.name!r} have the orders "
                f"{one.error_order} and {other.error_order}; expected one and the same, for step control to go on with"
            )
        if len(one.tableau.c) < 2 or one.tableau.c[-1] != one.tableau.c[-2]:
            raise TableauError(
                f"{cls.__name__}: {one.name!r} has no estimate of stiffness; expected its last two nodes to be equal"
            )
        cls.order, cls.error_order = min(one.order, other.order), one.error_order
        cls.dense_order = min(one.dense_order, other.dense_order)
        cls.boundary = real_stability(one.tableau)

    def _method(self, stiff: bool) -> ODESolver:
        return self.stiff(linear=self.linear) if stiff else self.nonstiff()

    def init(self, f: VectorField, t0: Time, y0: Tensor, f0: Tensor | None = None) -> Carry:
        return Carry(False, 0, 0, self._method(stiff=False).init(f, t0, y0, f0))

    def step(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Carry) -> Step:
        method = self._method(carry.stiff)
        if isinstance(method, RosenbrockMethod):
            near = f.expanded(t0, y0, carry.own)
            step = method.step_from(near, f, t0, t1, y0, carry.own)
            asks = _size(near.radius(), t1 - t0) < _TO_NONSTIFF * self.boundary
        else:
            step = method.step(f, t0, t1, y0, carry.own)
            asks = _size(_radius(self.nonstiff.tableau, step), t1 - t0) > _TO_STIFF * self.boundary
        return attrs.evolve(step, carry=self._next(f, step, carry, asks), dense=Made(method, step.dense))

    def _next(self, f: VectorField, step: Step, carry: Carry, asks: bool) -> Carry:
        asked, quiet = (carry.asked + 1, 0) if asks else (carry.asked, carry.quiet + 1)
        if quiet >= _FORGIVEN:
            asked = 0
        if asked < _PATIENCE[carry.stiff]:
            return Carry(carry.stiff, asked, quiet, step.carry)
        return Carry(not carry.stiff, 0, 0, self._method(not carry.stiff).init(f, step.t1, step.y1))

    def densify(self, f: VectorField, step: Step) -> Step:
        own = step.dense.method.densify(f, _unwrapped(step))
        return attrs.evolve(step, dense=Made(step.dense.method, own.dense))

    def interpolate(self, step: Step, theta: Time) -> Tensor:
        return step.dense.method.interpolate(_unwrapped(step), theta)

    def derivative(self, step: Step, theta: Time) -> Tensor:
        return step.dense.method.derivative(_unwrapped(step), theta)


def _unwrapped(step: Step) -> Step:
    return attrs.evolve(step, dense=step.dense.dense)


def _radius(tableau: ButcherTableau, step: Step) -> Tensor:
    """ρ from the last two stages of an explicit step; NaN where they agree."""
    with torch.no_grad():
        ks, width = step.dense, len(tableau.b)
        last, other = (row + (0.0,) * (width - len(row)) for row in tableau.a[-1:-3:-1])
        apart = weighted([x - y for x, y in zip(last, other, strict=True)], ks)
        change = torch.linalg.vector_norm(ks[-1] - ks[-2])
        return change / (torch.linalg.vector_norm(apart) * coefficient(step.t1 - step.t0, step.y0)).abs()


def _size(radius: Tensor, dt: Time) -> float:
    """|dt| ρ as a host float: the one read of a step."""
    with torch.no_grad():
        return lanes.worst((radius * coefficient(dt, radius)).abs())


def real_stability(tableau: ButcherTableau) -> float:
    """The x up to which an explicit method damps y' = -λ y for 0 <= dt λ <= x.

    The first x at which |R(-x)| = 1, with R the polynomial 1 + Σ z^(j+1) bᵀ A^j 1 by which a step multiplies y.
    """
    s = len(tableau.b)
    a = np.zeros((s, s))
    for i, row in enumerate(tableau.a):
        a[i, : len(row)] = row
    moments, power = [1.0], np.ones(s)
    for _ in range(tableau.length):
        moments.append(float(np.asarray(tableau.b) @ power))
        power = a @ power
    ends: list[float] = []
    for level in (1.0, -1.0):
        roots: list[complex] = np.roots([*moments[:0:-1], 1.0 - level]).tolist()
        ends += [-root.real for root in roots if abs(root.imag) < 1e-8 and root.real < -1e-3]
    return min(ends)
