"""Rosenbrock methods: stiff steps that solve linear equations only, with coefficients that check themselves."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import attrs
import numpy as np
from torch import Tensor

from odekit.core.expansion import Expansion
from odekit.core.linear import Auto, Dense, Linear, Rows, resolve_linear
from odekit.core.order_conditions import defect, size
from odekit.core.protocols import ODESolver, Step, VectorField
from odekit.core.reuse import by_row
from odekit.core.runge_kutta import plus, stage_times, weighted
from odekit.core.times import Time, coefficient
from odekit.errors import InputError, TableauError

_ROUNDING = 1e-10
_INSIDE = (0.25, 0.5, 0.75)


def _row(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _rows(values: Iterable[Iterable[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(_row(row) for row in values)


def _square(rows: Sequence[Sequence[float]]) -> np.ndarray:
    full = np.zeros((len(rows), len(rows)))
    for i, row in enumerate(rows):
        full[i, : len(row)] = row
    return full


@attrs.frozen
class RosenbrockTable:
    """The coefficients of a Rosenbrock method with s stages in the form that needs no product with the Jacobian.

    With J = ∂f/∂y and f_t = ∂f/∂t at the start of the step, stage i solves

        (I/(dt γ) - J) u_i = f(t0 + α_i dt, y0 + Σ_{j<i} a_ij u_j) + Σ_{j<i} (c_ij/dt) u_j + γ_i dt f_t

    and y1 = y0 + Σ m_i u_i. Hairer & Wanner, *Solving ODEs II*, IV.7, (7.25).

    Attributes:
        gamma: γ.
        nodes: α_i, ``[s]``, within [0, 1].
        slopes: γ_i, ``[s]``.
        a, c: s rows, the i-th with i entries.
        m: weights of the step, ``[s]``.
        m_error: weights of the error estimate, m - m̂ with m̂ those of the embedded method; None without one.
        dense: rows h_1, h_2, ..., each ``[s]``, of the dense output
            y0 + Σ_i (θ m_i + θ (1 - θ) (h_1i + θ h_2i + ...)) u_i; None for the cubic Hermite interpolant.

    Raises:
        TableauError: sizes do not match, a node lies outside [0, 1], or the nodes and slopes are not the row sums of
            the matrices α and Γ that follow from ``a`` and ``c``: the method would be wrong where f depends on time.
    """

    gamma: float
    nodes: tuple[float, ...] = attrs.field(converter=_row)
    slopes: tuple[float, ...] = attrs.field(converter=_row)
    a: tuple[tuple[float, ...], ...] = attrs.field(converter=_rows)
    c: tuple[tuple[float, ...], ...] = attrs.field(converter=_rows)
    m: tuple[float, ...] = attrs.field(converter=_row)
    m_error: tuple[float, ...] | None = attrs.field(default=None, converter=attrs.converters.optional(_row))
    dense: tuple[tuple[float, ...], ...] | None = attrs.field(default=None, converter=attrs.converters.optional(_rows))

    @classmethod
    def classical(
        cls,
        alpha: Sequence[Sequence[float]],
        gamma: Sequence[Sequence[float]],
        b: Sequence[float],
        b_error: Sequence[float] | None = None,
        dense: Sequence[Sequence[float]] | None = None,
    ) -> RosenbrockTable:
        """From the matrices α and Γ, whose rows end below and on the diagonal, and weights of the k_i, as in (7.4)."""
        inverse = np.linalg.inv(_square(gamma))
        diagonal = float(gamma[0][0])
        a, c = _square(alpha) @ inverse, np.eye(len(b)) / diagonal - inverse
        return cls(
            gamma=diagonal,
            nodes=[sum(row) for row in alpha],
            slopes=[sum(row) for row in gamma],
            a=[a[i, :i] for i in range(len(b))],
            c=[c[i, :i] for i in range(len(b))],
            m=np.asarray(b) @ inverse,
            m_error=None if b_error is None else np.asarray(b_error) @ inverse,
            dense=None if dense is None else np.asarray(dense) @ inverse,
        )

    def __attrs_post_init__(self) -> None:
        s = len(self.m)
        wrong = [row for row in (self.m_error, *(self.dense or ())) if row is not None and len(row) != s]
        strictly_lower = all([len(row) for row in rows] == list(range(s)) for rows in (self.a, self.c))
        if s == 0 or wrong or not strictly_lower or len(self.nodes) != s or len(self.slopes) != s:
            raise TableauError(
                f"a table of s stages has s entries each in nodes, slopes, m (and m_error, rows of dense) and rows of "
                f"0, 1, ..., s-1 entries in a and c; got m of {s}, nodes of {len(self.nodes)}, slopes of "
                f"{len(self.slopes)}, a of {[len(row) for row in self.a]}, c of {[len(row) for row in self.c]}"
            )
        for i, node in enumerate(self.nodes):
            if not 0 <= node <= 1:
                raise TableauError(f"nodes[{i}] = {node!r} lies outside [0, 1]: f would be called outside the step")
        for name, given, matrix in (("nodes", self.nodes, self.alpha), ("slopes", self.slopes, self.big_gamma)):
            for i, (value, total) in enumerate(zip(given, matrix.sum(1), strict=True)):
                if abs(value - total) > _ROUNDING:
                    raise TableauError(f"{name}[{i}] is {value!r}, but its row sums to {float(total):.12g}")

    @functools.cached_property
    def big_gamma(self) -> np.ndarray:
        """Γ, ``[s, s]``: C = I/γ - Γ⁻¹."""
        return np.linalg.inv(np.eye(len(self.m)) / self.gamma - _square(self.c))

    @functools.cached_property
    def alpha(self) -> np.ndarray:
        """α, ``[s, s]``: A = α Γ⁻¹."""
        return _square(self.a) @ self.big_gamma

    @functools.cached_property
    def error_order(self) -> int | None:
        """The order to which the error estimate vanishes: that of the worse of the two solutions."""
        if self.m_error is None:
            return None
        embedded = [m - e for m, e in zip(self.m, self.m_error, strict=True)]
        order = 0
        while order < 8 and all(self.defect(weights, order + 1)[0] <= _ROUNDING for weights in (self.m, embedded)):
            order += 1
        return order

    @functools.cached_property
    def dense_order(self) -> int | None:
        """The order of the dense output at every point; None for the Hermite interpolant."""
        if self.dense is None:
            return None
        order = 0
        while order < 8 and all(
            self.defect(self.dense_weights(theta), order + 1, theta)[0] <= _ROUNDING for theta in _INSIDE
        ):
            order += 1
        return order

    def defect(self, weights: Sequence[float], order: int, theta: float = 1.0) -> tuple[float, Any]:
        """The largest violation of an order condition by these weights of the u_i, and its tree."""
        alpha = self.alpha.tolist()
        both = (self.alpha + self.big_gamma).tolist()
        return defect(alpha, (np.asarray(weights) @ self.big_gamma).tolist(), order, theta, single=both)

    def dense_weights(self, theta: Any) -> list[Any]:
        """The weights of the u_i in the dense output."""
        weights = []
        for i, m in enumerate(self.m):
            bend: Any = 0.0
            for row in reversed(self.dense or ()):
                bend = bend * theta + row[i]
            weights.append(theta * (m + (1 - theta) * bend))
        return weights

    def check_order(self, order: int) -> None:
        """Raise TableauError unless the method has this order and its dense output at least the one below it."""
        gap, tree = self.defect(self.m, order)
        if gap > _ROUNDING:
            raise TableauError(
                f"the table misses an order condition of order {size(tree)} by {gap:.1e}, but order {order} is claimed"
            )
        if self.m_error is not None and (self.error_order == 0 or not any(self.m_error)):
            raise TableauError("m - m_error is not a consistent method; its error estimate would mean nothing")
        for theta in _INSIDE if self.dense else ():
            gap, tree = self.defect(self.dense_weights(theta), order - 1, theta)
            if gap > _ROUNDING:
                raise TableauError(
                    f"the dense output misses an order condition of order {size(tree)} at θ = {theta} by {gap:.1e}; "
                    f"a method of order {order} needs one of order {order - 1}"
                )


def _factored(instance: Any, attribute: Any, value: Linear) -> None:
    if not isinstance(value, Auto | Rows | Dense):
        raise InputError(
            f"linear={value!r:.80}: a Rosenbrock method factors the whole matrix; expected 'auto', 'rows' or 'dense'"
        )


@attrs.frozen(eq=False)
class RosenbrockMethod(ODESolver):
    """A Rosenbrock method: a subclass names itself, its order and its table, and is complete.

    Every step expands f to first order around its start and factors one matrix; the stages are solved with it one after
    the other, without an iteration. Since ∂f/∂y is part of the method, exact gradients need second derivatives of f;
    they are taken by autograd. Hairer & Wanner, *Solving ODEs II*, IV.7.

    Attributes:
        linear: how linear systems are solved: ``"dense"`` with one matrix for the whole state, ``"rows"`` with a block
            for each row of a batched state ``[B, ...]`` whose rows do not interact; ``"auto"`` finds out at the start
            of the solve, by one more evaluation, whether rows interact there (say ``"dense"`` if they begin to interact
            only later).
    """

    linear: Linear = attrs.field(factory=Auto, converter=resolve_linear, validator=_factored)

    table: ClassVar[RosenbrockTable]
    implicit = True
    rowwise = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "table" not in cls.__dict__:
            return
        if not isinstance(cls.table, RosenbrockTable):
            raise TableauError(f"{cls.__name__}.table is a {type(cls.table).__name__}; expected a RosenbrockTable")
        if not isinstance(getattr(cls, "order", None), int):
            raise TableauError(f"{cls.__name__} has a table but no order; add `order = ...` to the class")
        try:
            cls.table.check_order(cls.order)
        except TableauError as error:
            raise TableauError(f"{cls.__name__}: {error}") from None
        cls.error_order = cls.table.error_order
        dense_order = cls.table.dense_order
        cls.dense_order = min(cls.order, 3) if dense_order is None else dense_order

    def init(self, f: VectorField, t0: Time, y0: Tensor, f0: Tensor | None = None) -> bool:
        """Whether the matrix is made of blocks, one a row."""
        if by_row(t0):
            return True
        return isinstance(self.linear.settled(lambda: f.rows_are_independent(t0, y0.detach())), Rows)

    def step(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: bool) -> Step:
        return self.step_from(f.expanded(t0, y0, carry), f, t0, t1, y0, carry)

    def step_from(self, near: Expansion, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: bool) -> Step:
        """:meth:`step` for where the expansion of f around its start is there already."""
        table, dt = self.table, t1 - t0
        times = stage_times(f, table.nodes, t0, t1)
        factors = near.factored(table.gamma * dt, y0)
        size = coefficient(dt, y0)
        drift = size * near.by_time
        us: list[Tensor] = []
        for i, slope in enumerate(table.slopes):
            value = near.value if i == 0 else f(times[i], _added(y0, weighted(table.a[i], us)))
            right = size * plus(value, drift, slope)
            us.append(factors.solve(_added(right, weighted(table.c[i], us)) * table.gamma))
        y1 = _added(y0, weighted(table.m, us))
        error = None if table.m_error is None else weighted(table.m_error, us)
        return Step(t0, t1, y0, y1, error, carry=carry, dense=us)

    def densify(self, f: VectorField, step: Step) -> Step:
        return step if self.table.dense is not None else super().densify(f, step)

    def interpolate(self, step: Step, theta: Time) -> Tensor:
        if self.table.dense is None:
            return super().interpolate(step, theta)
        y = step.y0
        for weight, u in zip(self.table.dense_weights(coefficient(theta, y)), step.dense, strict=True):
            y = y + weight * u
        return y


def _added(y: Tensor, change: Tensor | None) -> Tensor:
    return y if change is None else y + change
