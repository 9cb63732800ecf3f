"""Explicit Runge-Kutta methods: a tableau, and the step that follows from it."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from odekit.core.order_conditions import defect
from odekit.core.protocols import ODESolver, Step, VectorField
from odekit.core.times import Time, coefficient
from odekit.errors import TableauError

_ROUNDING = 1e-11


def _row(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _rows(values: Iterable[Iterable[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(_row(row) for row in values)


@attrs.frozen
class ButcherTableau:
    """The coefficients of a Runge-Kutta method with s stages (Butcher 1963), checked when it is made.

    Attributes:
        c: nodes, ``[s]``, within [0, 1].
        a: stage weights, s rows; a row may end at its last non-zero entry (an explicit method's first is ``()``).
        b: weights of the step, ``[s]``.
        b_error: weights of the error estimate, ``b - b̂`` with b̂ the embedded method's weights; None without one.
        b_dense: for each stage the coefficients of θ, θ², ... in its weight b_i(θ) of the dense output; None for the
            cubic Hermite interpolant.

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

    def __attrs_post_init__(self) -> None:
        s = len(self.b)
        sizes = {"c": len(self.c), "a": len(self.a), "b": s}
        if self.b_error is not None:
            sizes["b_error"] = len(self.b_error)
        if self.b_dense is not None:
            sizes["b_dense"] = len(self.b_dense)
        if len(set(sizes.values())) != 1 or s == 0:
            raise TableauError(
                f"a tableau of s stages has s entries each in c, a, b (and b_error, b_dense); got {sizes}"
            )
        for i, (node, row) in enumerate(zip(self.c, self.a, strict=True)):
            if len(row) > s:
                raise TableauError(f"row {i} of a has {len(row)} entries for {s} stages")
            if abs(sum(row) - node) > _ROUNDING * s:
                raise TableauError(f"row {i} of a sums to {sum(row)!r}, but its node c[{i}] is {node!r}")
            if not 0 <= node <= 1:
                raise TableauError(f"c[{i}] = {node!r} lies outside [0, 1]: f would be called outside the step")
        if abs(sum(self.b) - 1) > _ROUNDING * s:
            raise TableauError(f"b sums to {sum(self.b)!r}; the weights of a step sum to 1")
        if self.b_error is not None and abs(sum(self.b_error)) > _ROUNDING * s:
            raise TableauError(
                f"b_error sums to {sum(self.b_error)!r}; give the difference b - b̂, which sums to 0, "
                "not the embedded weights b̂ themselves"
            )
        if self.b_dense is not None:
            for i, (end, weight) in enumerate(zip(self.dense_weights(1.0), self.b, strict=True)):
                if abs(end - weight) > _ROUNDING * s:
                    raise TableauError(f"the dense output's weight {i} ends at {end!r}, but b[{i}] is {weight!r}")

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
        last = self.a[-1]
        return self.c[-1] == 1 and last + (0.0,) * (len(self.b) - len(last)) == self.b

    @functools.cached_property
    def fsal(self) -> bool:
        """Whether the last stage is the first one of the next step (first same as last)."""
        return self.explicit and self.stiffly_accurate and self.c[0] == 0

    @functools.cached_property
    def error_order(self) -> int | None:
        """The order of the embedded method ``b - b_error``, by its order conditions; None without an error estimate."""
        if self.b_error is None:
            return None
        embedded = [b - e for b, e in zip(self.b, self.b_error, strict=True)]
        order = 0
        while order < 8 and defect(self.a, embedded, order + 1)[0] <= 1e-9:
            order += 1
        return order

    def dense_weights(self, theta: Time) -> list[Any]:
        """The weights b_i(θ) of the dense output."""
        weights: list[Any] = []
        for polynomial in self.b_dense or ():
            value: Any = 0.0
            for factor in reversed(polynomial):
                value = (value + factor) * theta
            weights.append(value)
        return weights

    def check_order(self, order: int) -> None:
        """Raise TableauError unless the method has this order, and its dense output at least the order it needs.

        A dense output one order below the method still gives the method's global order at every point.
        """
        gap, tree = defect(self.a, self.b, order)
        if gap > 1e-10:
            raise TableauError(
                f"the tableau misses an order condition of order {_vertices(tree)} by {gap:.1e}, "
                f"but order {order} is claimed"
            )
        if self.b_error is not None and (self.error_order == 0 or not any(self.b_error)):
            raise TableauError("b - b_error is not a consistent method; its error estimate would mean nothing")
        for theta in (0.25, 0.5, 0.75) if self.b_dense else ():
            gap, tree = defect(self.a, self.dense_weights(theta), order - 1, theta)
            if gap > 1e-10:
                raise TableauError(
                    f"the dense output misses an order condition of order {_vertices(tree)} at θ = {theta} "
                    f"by {gap:.1e}; a method of order {order} needs one of order {order - 1}"
                )


def _vertices(tree: Any) -> int:
    return 1 + sum(_vertices(branch) for branch in tree)


def combine(y: Tensor, dt: Time, weights: Sequence[float], ks: Sequence[Tensor]) -> Tensor:
    """``y + dt Σ w_i k_i``. With a host ``dt`` no operation saves anything for its backward pass."""
    if isinstance(dt, float):
        for weight, k in zip(weights, ks, strict=False):
            if weight:
                y = torch.add(y, k, alpha=dt * weight)
        return y
    increment = weighted(weights, ks)
    return y if increment is None else y + coefficient(dt, y) * increment


def weighted(weights: Sequence[float], ks: Sequence[Tensor]) -> Tensor | None:
    """``Σ w_i k_i``, None if all weights are zero."""
    total: Tensor | None = None
    for weight, k in zip(weights, ks, strict=False):
        if weight:
            total = k * weight if total is None else torch.add(total, k, alpha=weight)
    return total


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

    @classmethod
    def _check_shape(cls, tableau: ButcherTableau) -> None:
        """Raise TableauError if the base class cannot run such a tableau."""


class ExplicitRungeKutta(RungeKutta):
    """An explicit Runge-Kutta method: a subclass names itself, its order and its tableau, and is complete.

    k_i = f(t0 + c_i dt, y0 + dt Σ_{j<i} a_ij k_j) and y1 = y0 + dt Σ b_i k_i. Runs with fixed steps, and with adaptive
    ones where the tableau has error weights. Hairer, Nørsett & Wanner, *Solving ODEs I*, II.1.
    """

    memoryless = True

    @classmethod
    def _check_shape(cls, tableau: ButcherTableau) -> None:
        if not tableau.explicit:
            raise TableauError(f"{cls.__name__}: the tableau is implicit; derive from DiagonallyImplicitRungeKutta")

    def init(self, f: VectorField, t0: Time, y0: Tensor, f0: Tensor | None = None) -> Tensor | None:
        """The slope at the start of the step, if it is the first stage and known already."""
        return f0 if self.tableau.c[0] == 0 else None

    def step(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Tensor | None) -> Step:
        tableau, dt = self.tableau, t1 - t0
        ks, y_last = self._stages(f, t0, t1, y0, carry, len(tableau.b))
        y1 = y_last if tableau.fsal else combine(y0, dt, tableau.b, ks)
        error = None
        if tableau.b_error is not None:
            total = weighted(tableau.b_error, ks)
            error = total if total is None else coefficient(dt, y0) * total
        return Step(t0, t1, y0, y1, error, carry=ks[-1] if tableau.fsal else None, dense=ks)

    def replay(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Tensor | None) -> Tensor:
        tableau = self.tableau
        if not tableau.fsal:
            return combine(y0, t1 - t0, tableau.b, self._stages(f, t0, t1, y0, carry, len(tableau.b))[0])
        ks, _ = self._stages(f, t0, t1, y0, carry, len(tableau.b) - 1)
        return combine(y0, t1 - t0, tableau.a[-1], ks)

    def _stages(
        self, f: VectorField, t0: Time, t1: Time, y0: Tensor, k0: Tensor | None, count: int
    ) -> tuple[list[Tensor], Tensor]:
        """The slopes of the first ``count`` stages, and the state at which the last of them was taken."""
        tableau, dt, y = self.tableau, t1 - t0, y0
        times = stage_times(f, tableau.c, t0, t1)
        ks: list[Tensor] = [] if k0 is None else [k0]
        for i in range(len(ks), count):
            y = combine(y0, dt, tableau.a[i], ks)
            ks.append(f(times[i], y))
        return ks, y

    def densify(self, f: VectorField, step: Step) -> Step:
        tableau, ks = self.tableau, step.dense
        if tableau.b_dense is not None:
            return step
        f0 = ks[0] if tableau.c[0] == 0 else f(step.t0, step.y0)
        f1 = ks[-1] if tableau.fsal else f(step.t1, step.y1)
        return attrs.evolve(step, dense=(f0, f1), carry=f1 if tableau.c[0] == 0 else None)

    def interpolate(self, step: Step, theta: Time) -> Tensor:
        tableau = self.tableau
        if tableau.b_dense is None:
            return super().interpolate(step, theta)
        dt = step.t1 - step.t0
        y = step.y0
        for weight, k in zip(tableau.dense_weights(theta), step.dense, strict=True):
            y = y + coefficient(dt * weight, y) * k
        return y
