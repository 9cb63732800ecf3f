"""Explicit Runge-Kutta methods: a tableau, and the step that follows from it."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from odekit.core.interpolate import hermite_slope
from odekit.core.order_conditions import attained, size, violations
from odekit.core.protocols import ODESolver, Step, VectorField
from odekit.core.times import Time, coefficient
from odekit.errors import TableauError

_ROUNDING = 1e-11
_INSIDE = (1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8)
"""Where dense output is checked: with both ends, enough points to settle a polynomial of degree eight."""


def _row(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _rows(values: Iterable[Iterable[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(_row(row) for row in values)


@attrs.frozen(slots=False)
class ButcherTableau:
    """The coefficients of a Runge-Kutta method with s stages (Butcher 1963), checked when it is made.

    Attributes:
        c: nodes, ``[s]``, within [0, 1].
        a: stage weights, s rows; a row may end at its last non-zero entry (an explicit method's first is ``()``).
        b: weights of the step, ``[s]``.
        b_error: weights of the error estimate, ``b - b̂`` with b̂ the embedded method's weights; None without one.
        b_dense: for each stage the coefficients of θ, θ², ... in its weight b_i(θ) of the dense output, those of
            ``c_dense`` included; None for the cubic Hermite interpolant.
        c_dense, a_dense: further stages, explicit ones, that nothing but the dense output needs. They are evaluated
            where an output falls inside the step.
        reach: how far from its start a step may ask f, in steps. More than 1 is for a method that looks itself whether
            that lies within the span (:meth:`~odekit.core.protocols.VectorField.inside`).

    Raises:
        TableauError: sizes do not match, a row of ``a`` does not sum to its node, ``b`` does not sum to one,
            ``b_error`` not to zero, or the dense output does not end in ``b``.
    """

    c: tuple[float, ...] = attrs.field(converter=_row)
    a: tuple[tuple[float, ...], ...] = attrs.field(converter=_rows)
    b: tuple[float, ...] = attrs.field(converter=_row)
    b_error: tuple[float, ...] | None = attrs.field(default=None, converter=attrs.converters.optional(_row))
    b_dense: tuple[tuple[float, ...], ...] | None = attrs.field(
        default=None, converter=attrs.converters.optional(_rows)
    )
    c_dense: tuple[float, ...] = attrs.field(default=(), converter=_row)
    a_dense: tuple[tuple[float, ...], ...] = attrs.field(default=(), converter=_rows)
    reach: float = 1.0

    def __attrs_post_init__(self) -> None:
        s = len(self.b)
        self._check_sizes()
        for i, (node, row) in enumerate(zip(self.c, self.a, strict=True)):
            self._check_stage("", i, node, row, s)
        for i, (node, row) in enumerate(zip(self.c_dense, self.a_dense, strict=True)):
            self._check_stage("_dense", i, node, row, s + i)
        if abs(sum(self.b) - 1) > _ROUNDING * s:
            raise TableauError(f"b sums to {sum(self.b)!r}; the weights of a step sum to 1")
        if self.b_error is not None and abs(sum(self.b_error)) > _ROUNDING * s:
            raise TableauError(
                f"b_error sums to {sum(self.b_error)!r}; give the difference b - b̂, which sums to 0, "
                "not the embedded weights b̂ themselves"
            )
        if self.b_dense is not None:
            b = self.b + (0.0,) * len(self.c_dense)
            for i, (end, weight) in enumerate(zip(self.dense_weights(1.0), b, strict=True)):
                if abs(end - weight) > _ROUNDING * s:
                    raise TableauError(f"the dense output's weight {i} ends at {end!r}, but b[{i}] is {weight!r}")

    def _check_sizes(self) -> None:
        s, extra = len(self.b), len(self.c_dense)
        sizes = {"c": len(self.c), "a": len(self.a), "b": s}
        if self.b_error is not None:
            sizes["b_error"] = len(self.b_error)
        if self.b_dense is not None:
            sizes["b_dense"] = len(self.b_dense) - extra
        if len(set(sizes.values())) != 1 or s == 0:
            raise TableauError(
                f"a tableau of s stages has s entries each in c, a, b (and b_error, b_dense); got {sizes}"
            )
        if len(self.a_dense) != extra or (extra and self.b_dense is None):
            raise TableauError(
                f"c_dense has {extra} entries, a_dense {len(self.a_dense)}; a stage for the dense output "
                "is a node, a row, and an entry of b_dense"
            )

    def _check_stage(self, part: str, i: int, node: float, row: tuple[float, ...], known: int) -> None:
        if len(row) > known:
            raise TableauError(f"row {i} of a{part} has {len(row)} entries for {known} stages")
        if abs(sum(row) - node) > _ROUNDING * known:
            raise TableauError(f"row {i} of a{part} sums to {sum(row)!r}, but its node c{part}[{i}] is {node!r}")
        if not 0 <= node <= self.reach:
            raise TableauError(
                f"c{part}[{i}] = {node!r} lies outside [0, {self.reach:g}]: f would be called outside the step"
            )

    @functools.cached_property
    def explicit(self) -> bool:
        """Whether no stage depends on itself or a later one."""
        return all(value == 0 for i, row in enumerate(self.a) for value in row[i:])

    @functools.cached_property
    def diagonally_implicit(self) -> bool:
        """Whether no stage depends on a later one."""
        return all(value == 0 for i, row in enumerate(self.a) for value in row[i + 1 :])

    @functools.cached_property
    def stiffly_accurate(self) -> bool:
        """Whether the last stage is the step itself: its row of ``a`` is ``b``, at the node 1."""
        return self.c[-1] == 1 and self._is_step(self.a[-1])

    @functools.cached_property
    def fsal(self) -> bool:
        """Whether the last stage is the first one of the next step (first same as last)."""
        return self.explicit and self.stiffly_accurate and self.c[0] == 0

    @functools.cached_property
    def length(self) -> int:
        """How many stages, from the first on, an explicit step needs to get to y1; the others serve the estimate."""
        return max(i for i, weight in enumerate(self.b, start=1) if weight)

    @functools.cached_property
    def for_dense(self) -> frozenset[int]:
        """The stages that the dense output needs, itself or by way of others; those of ``c_dense`` count on from s."""
        needed = {i for i, polynomial in enumerate(self.b_dense or ()) if any(polynomial)}
        for i, row in reversed(list(enumerate(self.a + self.a_dense))):
            if i in needed:
                needed.update(j for j, value in enumerate(row) if value)
        return frozenset(needed)

    @functools.cached_property
    def at_end(self) -> int | None:
        """The first stage that is f(t1, y1), among those of the step and of the dense output; None without one."""
        nodes, rows = self.c + self.c_dense, self.a + self.a_dense
        return next((i for i, row in enumerate(rows) if nodes[i] == 1 and self._is_step(row)), None)

    def _is_step(self, row: tuple[float, ...]) -> bool:
        width = max(len(row), len(self.b))
        return row + (0.0,) * (width - len(row)) == self.b + (0.0,) * (width - len(self.b))

    @functools.cached_property
    def error_order(self) -> int | None:
        """The order of the embedded method ``b - b_error``, by its order conditions; None without an error estimate."""
        if self.b_error is None:
            return None
        return attained(self.a, [b - e for b, e in zip(self.b, self.b_error, strict=True)], 8)

    @functools.cached_property
    def dense_order(self) -> int | None:
        """The order of the dense output at every point, by its order conditions; None for the Hermite interpolant."""
        if self.b_dense is None:
            return None
        rows = self.a + self.a_dense
        return min(attained(rows, self.dense_weights(theta), 8, theta) for theta in _INSIDE)

    def dense_weights(self, theta: Time) -> list[Any]:
        """The weights b_i(θ) of the dense output; 0.0 for a stage that it does not use."""
        weights: list[Any] = []
        for polynomial in self.b_dense or ():
            value: Any = 0.0
            for factor in reversed(polynomial if any(polynomial) else ()):
                value = (value + factor) * theta
            weights.append(value)
        return weights

    def dense_slopes(self, theta: Time) -> list[Any]:
        """Their derivatives b_i'(θ): the weights of dy/dt within the step."""
        slopes: list[Any] = []
        for polynomial in self.b_dense or ():
            value: Any = 0.0
            for power, factor in reversed(list(enumerate(polynomial if any(polynomial) else (), start=1))):
                value = value * theta + power * factor
            slopes.append(value)
        return slopes

    def check_order(self, order: int) -> None:
        """Raise TableauError unless the method has this order, and its dense output at least the order it needs.

        A dense output one order below the method still gives the method's global order at every point.
        """
        for gap, tree in violations(self.a, self.b, order):
            if gap > 1e-10:
                raise TableauError(
                    f"the tableau misses an order condition of order {size(tree)} by {gap:.1e}, "
                    f"but order {order} is claimed"
                )
        if self.b_error is not None and (self.error_order == 0 or not any(self.b_error)):
            raise TableauError("b - b_error is not a consistent method; its error estimate would mean nothing")
        rows = self.a + self.a_dense
        for theta in _INSIDE if self.b_dense else ():
            for gap, tree in violations(rows, self.dense_weights(theta), order - 1, theta):
                if gap > 1e-10:
                    raise TableauError(
                        f"the dense output misses an order condition of order {size(tree)} at θ = {theta} "
                        f"by {gap:.1e}; a method of order {order} needs one of order {order - 1}"
                    )


def combine(y: Tensor, dt: Time, weights: Sequence[float], ks: Sequence[Tensor]) -> Tensor:
    """``y + dt Σ w_i k_i``. With a host ``dt`` no operation saves anything for its backward pass.

    The increment is summed first and rounded to the precision of ``y`` once: over thousands of steps in float32 the
    difference is seen.
    """
    total, factor = _sum(weights, ks)
    if total is None:
        return y
    if isinstance(dt, float):
        return plus(y, total, dt * factor)
    dt = coefficient(dt, y)
    if isinstance(dt, Tensor) and dt.ndim:
        return torch.addcmul(y, dt, total, value=factor)
    return y + dt * factor * total


def weighted(weights: Sequence[float], ks: Sequence[Tensor]) -> Tensor | None:
    """``Σ w_i k_i``, None if all weights are zero."""
    total: Tensor | None = None
    for weight, k in zip(weights, ks, strict=False):
        if weight:
            total = k * weight if total is None else plus(total, k, weight)
    return total


def plus(y: Tensor, k: Tensor, weight: float) -> Tensor:
    """``y + weight k``, in one operation.

    Not in a graph: there a product of matrices as ``k`` lost its weight, as compiled by PyTorch 2.13.
    """
    return y + weight * k if torch.compiler.is_compiling() else torch.add(y, k, alpha=weight)


def _sum(weights: Sequence[float], ks: Sequence[Tensor]) -> tuple[Tensor | None, float]:
    """A tensor and a factor of which ``Σ w_i k_i`` is the product; None for nothing.

    The largest weight is the factor: to multiply by it can wait until there is something else to do, and nothing on the
    way is much larger than the largest of the ``ks``.
    """
    place, factor = -1, 0.0
    for i, weight in enumerate(weights):
        if abs(weight) > abs(factor):
            place, factor = i, weight
    if place < 0:
        return None, factor
    total = ks[place]
    for i, weight in enumerate(weights):
        if weight and i != place:
            total = plus(total, ks[i], weight / factor)
    return total, factor


def stage_times(f: VectorField, c: Sequence[float], t0: Time, t1: Time) -> Sequence[Tensor]:
    """The times of the stages; those at the nodes 0 and 1 are the ends of the step to the last bit."""
    dt = t1 - t0
    return f.times([t0 if node == 0 else t1 if node == 1 else t0 + node * dt for node in c])


class RungeKutta(ODESolver):
    """What explicit and implicit Runge-Kutta methods share: a tableau that must match the claimed order."""

    tableau: ClassVar[ButcherTableau]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "tableau" not in cls.__dict__:
            return
        if not isinstance(cls.tableau, ButcherTableau):
            raise TableauError(f"{cls.__name__}.tableau is a {type(cls.tableau).__name__}; expected a ButcherTableau")
        if not isinstance(getattr(cls, "order", None), int):
            raise TableauError(f"{cls.__name__} has a tableau but no order; add `order = ...` to the class")
        cls._check_shape(cls.tableau)
        try:
            cls.tableau.check_order(cls.order)
        except TableauError as error:
            raise TableauError(f"{cls.__name__}: {error}") from None
        cls.error_order = cls.tableau.error_order
        dense_order = cls.tableau.dense_order
        cls.dense_order = min(cls.order, 3) if dense_order is None else dense_order

    @classmethod
    def _check_shape(cls, tableau: ButcherTableau) -> None:
        """Raise TableauError if the base class cannot run such a tableau."""

    def interpolate(self, step: Step, theta: Time) -> Tensor:
        tableau, y0 = self.tableau, step.y0
        if tableau.b_dense is None:
            return super().interpolate(step, theta)
        dt, weights = coefficient(step.t1 - step.t0, y0), tableau.dense_weights(theta)
        if isinstance(theta, int | float):
            return combine(y0, dt, weights, step.dense)
        return y0 + dt * _mixed(weights, step.dense)

    def derivative(self, step: Step, theta: Time) -> Tensor:
        tableau, y0 = self.tableau, step.y0
        if tableau.b_dense is None:
            f0, f1 = step.dense
            return hermite_slope(y0, step.y1, f0, f1, step.t1 - step.t0, theta)
        return _mixed(tableau.dense_slopes(theta), step.dense)


class ExplicitRungeKutta(RungeKutta):
    """An explicit Runge-Kutta method: a subclass names itself, its order and its tableau, and is complete.

    k_i = f(t0 + c_i dt, y0 + dt Σ_{j<i} a_ij k_j) and y1 = y0 + dt Σ b_i k_i. Runs with fixed steps, and with adaptive
    ones where the tableau has error weights. Stages that only the error estimate needs come last, and fixed steps leave
    them out. Hairer, Nørsett & Wanner, *Solving ODEs I*, II.1.
    """

    memoryless = True
    rowwise = True

    @classmethod
    def _check_shape(cls, tableau: ButcherTableau) -> None:
        if not tableau.explicit:
            raise TableauError(f"{cls.__name__}: the tableau is implicit; derive from DiagonallyImplicitRungeKutta")

    def init(self, f: VectorField, t0: Time, y0: Tensor, f0: Tensor | None = None) -> Tensor | None:
        """The slope at the start of the step, if it is the first stage and known already."""
        return f0 if self.tableau.c[0] == 0 else None

    def step(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Tensor | None) -> Step:
        tableau, dt = self.tableau, coefficient(t1 - t0, y0)
        ks, y_last = self._stages(f, t0, t1, y0, dt, carry, len(tableau.b))
        y1 = y_last if tableau.fsal else combine(y0, dt, tableau.b, ks)
        total, factor = _sum(tableau.b_error or (), ks)
        error = None if total is None else total * (dt * factor)
        return Step(t0, t1, y0, y1, error, carry=ks[-1] if tableau.fsal else None, dense=ks)

    def advance(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Tensor | None) -> Step:
        tableau, dt = self.tableau, coefficient(t1 - t0, y0)
        ks, _ = self._stages(f, t0, t1, y0, dt, carry, tableau.length)
        return Step(t0, t1, y0, combine(y0, dt, tableau.b, ks), dense=ks)

    def _stages(
        self, f: VectorField, t0: Time, t1: Time, y0: Tensor, dt: float | Tensor, k0: Tensor | None, count: int
    ) -> tuple[list[Tensor], Tensor]:
        """The slopes of the first ``count`` stages, and the state at which the last of them was taken."""
        tableau, y = self.tableau, y0
        times = stage_times(f, tableau.c[:count], t0, t1)
        ks: list[Tensor] = [] if k0 is None else [k0]
        for i in range(len(ks), count):
            y = combine(y0, dt, tableau.a[i], ks)
            ks.append(f(times[i], y))
        return ks, y

    def densify(self, f: VectorField, step: Step) -> Step:
        tableau, ks = self.tableau, step.dense
        if tableau.b_dense is None:
            f0 = ks[0] if tableau.c[0] == 0 else f(step.t0, step.y0)
            f1 = ks[-1] if tableau.fsal and len(ks) == len(tableau.b) else f(step.t1, step.y1)
            return attrs.evolve(step, dense=(f0, f1), carry=f1 if tableau.c[0] == 0 else None)
        nodes, rows = tableau.c + tableau.c_dense, tableau.a + tableau.a_dense
        if len(ks) == len(rows):
            return step
        ks, missing = list(ks), range(len(ks), len(rows))
        dt = coefficient(step.t1 - step.t0, step.y0)
        for i, t in zip(missing, stage_times(f, [nodes[i] for i in missing], step.t0, step.t1), strict=True):
            if i not in tableau.for_dense:
                ks.append(None)
                continue
            ks.append(f(t, step.y1 if i == tableau.at_end else combine(step.y0, dt, rows[i], ks)))
        f1 = None if tableau.at_end is None else ks[tableau.at_end]
        return attrs.evolve(step, dense=ks, carry=f1 if tableau.c[0] == 0 else None)


def _mixed(weights: Sequence[Time], ks: Sequence[Tensor]) -> Tensor:
    """``Σ w_i k_i`` with weights that may be times by row or tensors; a stage whose weight is 0.0 is left out."""
    pairs = [(w, k) for w, k in zip(weights, ks, strict=True) if not (isinstance(w, float) and w == 0)]
    return functools.reduce(torch.add, (coefficient(w, k) * k for w, k in pairs))
