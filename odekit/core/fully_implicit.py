"""Fully implicit Runge-Kutta methods of collocation type: all stages solved for at once."""

from __future__ import annotations

import functools
from typing import Any, ClassVar, NamedTuple

import attrs
import numpy as np
import torch
from torch import Tensor

from odekit.core import lanes
from odekit.core.implicit_runge_kutta import ImplicitRungeKutta, verdicts
from odekit.core.linear import Linear
from odekit.core.nonlinear import Newton, coupled_gradient, finite, pick
from odekit.core.protocols import ODESolver, Step, VectorField
from odekit.core.reuse import Kept, Linearisation, by_row
from odekit.core.runge_kutta import ButcherTableau, stage_times
from odekit.core.solution import Status
from odekit.core.times import Time, coefficient, host
from odekit.errors import TableauError


class Carry(NamedTuple):
    """What a fully implicit step hands to the next.

    Attributes:
        slope: f at its start, if known; only the error estimate uses it.
        linear: how linear systems are solved.
        kept: the Jacobian and what is known of it.
        stages: Y_i - y0 of the last step, s of them; None before there was one.
        size: of the last step, ``[R]``.
        careful: whether the error estimate is to be refined if it is too large, ``[R]``: in a first step and after a
            rejection.
    """

    slope: Tensor | None
    linear: Linear
    kept: Kept
    stages: tuple[Tensor, ...] | None
    size: np.ndarray
    careful: np.ndarray


@attrs.frozen(eq=False)
class FullyImplicitRungeKutta(ImplicitRungeKutta):
    """A collocation method: a subclass names itself, its order and its tableau, and is complete.

    The stages solve Y_i = y0 + dt Σ_j a_ij f(t_j, Y_j) together, by a Newton iteration whose linear systems fall apart
    into s systems of the size of the state, one for each eigenvalue of ``a``; of two that are conjugate one is enough
    for a real state (Butcher 1976; Hairer & Wanner, *Solving ODEs II*, (IV.8.5)). It begins on the collocation
    polynomial of the step before. Gradients go through the implicit function theorem, with the
    Jacobians of all stages.

    The error estimate compares with a formula of order s that has the start of the step as a further node, with weight
    γ, and multiplies by (I - dt γ ∂f/∂y)⁻¹ (Hairer & Wanner, (IV.8.19), and (IV.8.20) in a first step and after a
    rejection; for other collocation methods de Swart & Söderlind 1997, *On the construction of error estimators for
    implicit Runge-Kutta methods*). γ is the real eigenvalue of ``a``, so that there is nothing more to factor; if there
    is none, the modulus of the first pair. Dense output is the collocation polynomial, of degree s, or the cubic
    Hermite interpolant where that is better.
    """

    _parts: ClassVar[_Parts]

    @classmethod
    def _check_shape(cls, tableau: ButcherTableau) -> None:
        s = len(tableau.b)
        nodes = np.asarray(tableau.c)
        if len(set(tableau.c)) < s or min(tableau.c) <= 0 or tableau.b_error is not None or tableau.b_dense is not None:
            raise TableauError(
                f"{cls.__name__}: this base needs s different nodes in (0, 1], and makes b_error and b_dense itself"
            )
        a = np.zeros((s, s))
        for i, row in enumerate(tableau.a):
            a[i, : len(row)] = row
        powers = np.arange(1, s + 1)
        moments = a @ nodes[:, None] ** (powers - 1) - nodes[:, None] ** powers / powers
        if np.abs(moments).max() > 1e-12:
            raise TableauError(f"{cls.__name__}: this is no collocation method; its stages are not of order {s}")
        cls._parts = _taken_apart(a, np.asarray(tableau.b), nodes)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "tableau" in cls.__dict__:
            s = len(cls.tableau.b)
            cls.error_order = min(s, cls.order - 1)
            cls.dense_order = s if cls._parts.collocated else min(cls.order, 3)

    def init(self, f: VectorField, t0: Time, y0: Tensor, f0: Tensor | None = None) -> Carry:
        linear = self.settled(f, t0, y0)
        kept = Kept.begun(f, linear, t0, y0)
        slope, stages = None if f0 is None else f0.detach(), None
        if by_row(t0):  # nested as every later carry is
            slope = slope if slope is not None else f(t0, y0.detach())
            slope = slope if self.tableau.stiffly_accurate else None
            stages = tuple(torch.zeros_like(y0, requires_grad=False) for _ in self.tableau.b)
        return Carry(slope, linear, kept, stages, kept.size, np.ones_like(kept.serves))

    def step(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Carry) -> Step:
        tableau, parts, dt = self.tableau, self._parts, t1 - t0
        linear, kept, rows = carry.linear, carry.kept, by_row(t0)
        times = list(stage_times(f, tableau.c, t0, t1))
        with torch.no_grad():
            start = y0.detach()
            shifts = parts.all_shifts if y0.is_complex() else parts.shifts
            matrix = Linearisation(f, linear, kept, t0, start, dt, shifts)
            stages = _Stages(f, times, start, coefficient(dt, y0), matrix, parts, self.newton)
            guess = self._guess(start, dt, carry)
            solved = self.newton.solve(stages, guess, kept.contraction, [Status.SUCCESS] * len(kept.serves))
        retry = carry._replace(kept=matrix.to_retry() or kept, careful=np.ones_like(carry.careful))
        said = verdicts(solved.statuses, rows)
        z = solved.y
        if not any(status.ok for status in solved.statuses):
            return Step(t0, t1, y0, y0, carry=carry, retry=retry, **said)
        with torch.no_grad():
            slopes = _mix(parts.inverse, z)  # dt k_i
            slope = carry.slope if carry.slope is not None else f(t0, start)
            error = self._error(f, t0, t1, start, start + z[-1], slope, slopes, matrix, carry.careful)
        if torch.is_grad_enabled() or lanes.differentiated(y0) or lanes.differentiated(z):
            ys = coupled_gradient(f, times, y0, dt, parts.a, start + z.detach(), linear, self.newton.derivatives)
            z = z.detach() + (ys - ys.detach()) - (y0 - y0.detach())  # the numbers are those without gradients
        y1 = y0 + (z[-1] if tableau.stiffly_accurate else _mix(parts.end[None], z)[0])
        with torch.no_grad():
            last = (slopes[-1] / coefficient(dt, y0)).detach() if tableau.stiffly_accurate else None
            handed = Carry(
                last, linear, matrix.to_keep(solved.contraction, solved.serves), tuple(z.detach().unbind()),
                matrix.size, np.zeros_like(carry.careful),
            )  # fmt: skip
        return Step(t0, t1, y0, y1, error, carry=handed, dense=z, retry=retry, **said)

    def _guess(self, y0: Tensor, dt: Time, carry: Carry) -> Tensor:
        """Y_i - y0 on the polynomial of the step before; zero before there was one."""
        s = len(self.tableau.b)
        if carry.stages is None:
            return torch.zeros((s, *y0.shape), dtype=y0.dtype, device=y0.device)
        ratio = np.atleast_1d(np.asarray(host(dt))) / carry.size
        at = 1 + np.multiply.outer(np.asarray(self.tableau.c), ratio)
        weights = self._parts.polynomial(at) - self._parts.polynomial(np.ones(1))[:, :, None]  # [s, s, R]
        stages = torch.stack(carry.stages)
        if not by_row(dt):
            return _mix(weights[:, :, 0].T, stages)
        rows = torch.tensor(weights.tolist(), dtype=y0.real.dtype, device=y0.device).to(y0.dtype)
        return torch.einsum("jib,jb...->ib...", rows, stages)

    def _error(
        self, f: VectorField, t0: Time, t1: Time, y0: Tensor, y1: Tensor, slope: Tensor, slopes: Tensor,
        matrix: Linearisation, careful: np.ndarray,
    ) -> Tensor:  # fmt: skip
        parts, tolerance = self._parts, self.newton.tolerance
        dt = coefficient(t1 - t0, y0)
        rest = _mix(parts.error[None], slopes)[0]
        filtered = matrix.solver(parts.filter_index if not y0.is_complex() else parts.all_filter_index)
        error = filtered.solve(parts.gamma * dt * slope + rest)
        error = error if y0.is_complex() else error.real
        if careful.any():
            again = careful & np.atleast_1d(np.asarray(lanes.worst(tolerance.ratio(error, y0, y1))) > 1)
            if again.any():
                refined = filtered.solve(parts.gamma * dt * f(t0, y0 + error) + rest)
                error = pick(again, refined if y0.is_complex() else refined.real, error, 0)
        return error

    def densify(self, f: VectorField, step: Step) -> Step:
        if self._parts.collocated:
            return step
        return attrs.evolve(step, dense=(f(step.t0, step.y0), f(step.t1, step.y1)))

    def interpolate(self, step: Step, theta: Time) -> Tensor:
        if not self._parts.collocated:
            return super().interpolate(step, theta)
        y, z = step.y0, step.dense
        for i, factors in enumerate(self._parts.powers.T.tolist()):
            weight: Any = 0.0
            for factor in reversed(factors):
                weight = (weight + factor) * theta
            y = y + coefficient(weight, y) * z[i]
        return y

    def derivative(self, step: Step, theta: Time) -> Tensor:
        return ODESolver.derivative(self, step, theta) if self._parts.collocated else super().derivative(step, theta)


@attrs.frozen(eq=False)
class _Parts:
    """What a collocation method is taken apart into.

    Attributes:
        a, inverse: the stage weights ``[s, s]`` and their inverse.
        end: the weights of Y_i - y0 in y1 - y0.
        shifts: the eigenvalues of ``a`` in use for a real state: the real ones, then one of each conjugate pair, then
            γ if that is not among them.
        to, back: the real transformation to the systems of ``shifts`` and the one back, ``[s, s]``; the two parts of a
            complex unknown follow each other.
        all_shifts, all_to, all_back: the same with all eigenvalues, for a complex state.
        reals: how many of the eigenvalues are real.
        gamma: γ of the error estimate; ``error`` has its weights of dt k_i, and the indices say which shift it is.
        powers: coefficient of θ^k (from k = 1) in the weight of Y_i - y0 in the polynomial, ``[s, s]``.
        collocated: whether dense output is that polynomial.
    """

    a: np.ndarray
    inverse: np.ndarray
    end: np.ndarray
    shifts: tuple[complex, ...]
    to: np.ndarray
    back: np.ndarray
    all_shifts: tuple[complex, ...]
    all_to: np.ndarray
    all_back: np.ndarray
    reals: int
    gamma: float
    filter_index: int
    all_filter_index: int
    error: np.ndarray
    powers: np.ndarray
    collocated: bool

    def polynomial(self, theta: np.ndarray) -> np.ndarray:
        """The weights of Y_j - y0 at θ: ``[s, *θ]``."""
        s = len(self.a)
        return np.einsum("kj,k...->j...", self.powers, np.stack([theta**k for k in range(1, s + 1)]))


def _taken_apart(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> _Parts:
    s = len(b)
    values, vectors = np.linalg.eig(a)
    real = [i for i in range(s) if abs(values[i].imag) < 1e-12]
    pairs = [i for i in range(s) if values[i].imag > 1e-12]
    rows = np.linalg.inv(vectors)
    to: list[np.ndarray] = []
    back: list[np.ndarray] = []
    shifts: list[complex] = []
    for i in real:
        turn = np.exp(-1j * np.angle(vectors[0, i]))
        to.append((rows[i] / turn).real)
        back.append((vectors[:, i] * turn).real)
        shifts.append(float(values[i].real))
    for i in pairs:
        to += [rows[i].real, rows[i].imag]
        back += [2 * vectors[:, i].real, -2 * vectors[:, i].imag]
        shifts.append(complex(values[i]))
    gamma = float(abs(values[real[0] if real else pairs[0]]))
    chosen, everything = [*shifts], [complex(value) for value in values]
    if not real:
        chosen.append(gamma)
        everything.append(complex(gamma))
    index = 0 if real else len(chosen) - 1
    all_index = real[0] if real else len(everything) - 1
    vandermonde = np.stack([c**k for k in range(s)])
    error = np.linalg.solve(vandermonde, np.r_[-gamma, np.zeros(s - 1)])
    inverse = np.linalg.inv(a)
    return _Parts(
        a=a,
        inverse=inverse,
        end=b @ inverse,
        shifts=tuple(chosen),
        to=np.stack(to),
        back=np.stack(back, 1),
        all_shifts=tuple(everything),
        all_to=rows,
        all_back=vectors,
        reals=len(real),
        gamma=gamma,
        filter_index=index,
        all_filter_index=all_index,
        error=error,
        powers=np.linalg.inv(np.stack([c**k for k in range(1, s + 1)], 1)),
        collocated=c[-1] == 1 or s > 2,
    )


def _mix(weights: np.ndarray, z: Tensor) -> Tensor:
    """Σ_j w_ij z_j for z ``[s, *state]``."""
    dtype = z.dtype.to_complex() if np.iscomplexobj(weights) else z.dtype
    return _applied(torch.tensor(weights.tolist(), dtype=dtype, device=z.device), z)


def _applied(weights: Tensor, z: Tensor) -> Tensor:
    return (weights @ z.to(weights.dtype).reshape(len(z), -1)).reshape(len(weights), *z.shape[1:])


@functools.lru_cache(maxsize=64)
def _mixing(parts: _Parts, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """``a`` and both transformations, for states of this dtype."""
    chosen = (parts.a, parts.all_to, parts.all_back) if dtype.is_complex else (parts.a, parts.to, parts.back)
    a, to, back = (torch.tensor(x.tolist(), dtype=dtype, device=device) for x in chosen)
    return a, to, back


@attrs.frozen(eq=False)
class _Stages:
    """The equations of all stages, for z_i = Y_i - y0."""

    f: VectorField
    times: list[Tensor]
    y0: Tensor
    h: float | Tensor
    matrix: Linearisation
    parts: _Parts
    newton: Newton

    @property
    def whole(self) -> bool:
        return self.matrix.whole

    @property
    def mixing(self) -> tuple[Tensor, Tensor, Tensor]:
        return _mixing(self.parts, self.y0.dtype, self.y0.device)

    def residual(self, y: Tensor) -> Tensor:
        slopes = torch.stack([self.f(t, self.y0 + z) for t, z in zip(self.times, y, strict=True)])
        return self.h * _applied(self.mixing[0], slopes) - y

    def correction(self, residual: Tensor) -> Tensor:
        parts, solver, (_, to, back) = self.parts, self.matrix.solver, self.mixing
        split = _applied(to, residual).unbind()
        if residual.is_complex():
            return _applied(back, torch.stack([solver(i).solve(x) for i, x in enumerate(split)]))
        solved = [solver(i).solve(split[i]) for i in range(parts.reals)]
        for i in range(parts.reals, len(split), 2):
            x = solver((parts.reals + i) // 2).solve(torch.complex(split[i], split[i + 1]))
            solved += [x.real, x.imag]
        return _applied(back, torch.stack(solved))

    def size(self, update: Tensor, y: Tensor) -> Tensor:
        unit = self.newton.unit(self.y0)
        sizes = torch.stack([self.newton.tolerance.norm(part / unit) for part in update])
        return sizes.square().mean(0).sqrt()

    def renew(self, y: Tensor, wanted: np.ndarray) -> np.ndarray:
        fresh = self.matrix.renew_at_start(wanted)
        if fresh.any():
            return fresh
        middle = len(self.times) // 2
        self.matrix.renew(self.times[middle], self.y0 + y[middle], wanted)
        return wanted

    def pick(self, which: np.ndarray, a: Tensor, b: Tensor) -> Tensor:
        return pick(which, a, b, 1)

    def finite(self, x: Tensor) -> np.ndarray:
        return finite(x, len(self.matrix.at_start), 1)
