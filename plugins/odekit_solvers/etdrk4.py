"""The exponential Runge-Kutta method of Cox and Matthews, for f with a stiff linear part."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import attrs
import numpy as np
import torch
from torch import Tensor

import odekit
from odekit.core.first_only import first_only
from odekit.core.phi import Phis, phis_of_matrix, phis_of_numbers
from odekit.core.protocols import ODESolver, Step, VectorField
from odekit.core.runge_kutta import stage_times
from odekit.core.times import Time, host
from odekit.errors import GradientError, InputError, OptionError

_SECOND = (
    "solver 'etdrk4' has no second derivatives with respect to the output times; detach them, or use a general solver"
)


class Weights(NamedTuple):
    """What a step of one size multiplies with: matrices ``[n, n]``, or their diagonals ``[n]``.

    Attributes:
        half, whole: e^(L dt/2) and e^(L dt).
        stage: of a slope in the stages.
        start, middle, end: of the slopes at the start, at both stages in the middle, and at the last stage.
    """

    half: Any
    whole: Any
    stage: Any
    start: Any
    middle: Any
    end: Any


class Carry(NamedTuple):
    """What a step hands to the next.

    Attributes:
        slope: f at its start.
        linear: L as the state has it: dtype and device.
        size: the step size of the weights; NaN before the first step.
        weights: those that were used last.
    """

    slope: Tensor
    linear: Tensor
    size: float
    weights: Weights | None


def _host_array(linear: Any) -> np.ndarray:
    if isinstance(linear, Tensor):
        if linear.requires_grad:
            raise GradientError(
                "linear= requires grad, but how f is split is a setting and not differentiated; give "
                "linear=L.detach(). What L does within f has its gradient through f"
            )
        linear = linear.tolist()
    try:
        array = np.asarray(linear)
        array = array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)
    except (TypeError, ValueError):
        raise InputError(f"linear={linear!r:.80}: expected a matrix [n, n] or its diagonal [n]") from None
    if not (array.ndim == 1 or (array.ndim == 2 and len(array) == len(array.T))) or array.size == 0:
        raise InputError(f"linear has the shape {array.shape}; expected a matrix [n, n] or its diagonal [n]")
    if not np.isfinite(array).all():
        raise InputError("linear holds NaN or infinite values; expected finite numbers")
    return array


@attrs.frozen(eq=False)
class ETDRK4(ODESolver):
    """Exponential time differencing of order four, for dy/dt = L y + N(t, y) with a stiff L: no step limit from L.

    f is all of the right-hand side; the solver is told L and takes N = f - L y. Steps follow the linear part exactly.
    Cox & Matthews 2002, *Exponential time differencing for stiff systems*, J. Comput. Phys. 176, (26)-(29). The
    estimate is the distance to the solution of order three that has the slope at the end of the step in place of the
    last stage's, as Whalley, Brio & Moloney 2015, *Exponential time-differencing with embedded Runge-Kutta adaptive
    step control*, J. Comput. Phys. 280, do for a sibling of this method. Four calls of f a step. Where L mixes with
    boundary conditions the order can fall to two (Hochbruck & Ostermann 2005, *Explicit exponential Runge-Kutta methods
    for semilinear parabolic problems*).

    The weights of a step are computed on the host, in double precision, once for each step size; for a matrix that
    takes some dozens of products ``[n, n]``.

    Attributes:
        linear: L, which acts on the last axis of the (packed) state: a matrix ``[n, n]`` or, if diagonal, a vector
            ``[n]``; a tensor, an array or nested lists, of which a copy is kept. Complex ones are for complex states.

    Raises:
        OptionError: the solve begins and no ``linear`` was given.
        InputError: ``linear`` does not fit the state, or is no finite matrix.
        GradientError: ``linear`` requires grad.
    """

    name = "etdrk4"
    order = 4
    error_order = 3
    structure = "semilinear"

    linear: np.ndarray | None = attrs.field(default=None, converter=attrs.converters.optional(_host_array))

    def init(self, f: VectorField, t0: Time, y0: Tensor, f0: Tensor | None = None) -> Carry:
        linear = _on_device(self._fitting(y0), y0)
        return Carry(f(t0, y0) if f0 is None else f0, linear, math.nan, None)

    def step(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Carry) -> Step:
        linear = carry.linear.detach()
        size, kept = self._weights(t0, t1, y0, carry)
        w = kept if not isinstance(t0, Tensor) else self._differentiable(kept, size, t1 - t0, y0)
        middle, end = stage_times(f, (0.5, 1.0), t0, t1)

        def nonlinear(t: Tensor, y: Tensor) -> Tensor:
            return f(t, y) - _times(linear, y)

        n0 = carry.slope - _times(linear, y0)
        decayed = _times(w.half, y0)
        a = decayed + _times(w.stage, n0)
        na = nonlinear(middle, a)
        b = decayed + _times(w.stage, na)
        nb = nonlinear(middle, b)
        c = _times(w.half, a) + _times(w.stage, 2 * nb - n0)
        nc = nonlinear(end, c)
        y1 = _times(w.whole, y0) + _times(w.start, n0) + _times(w.middle, na + nb) + _times(w.end, nc)
        slope = f(end, y1)
        error = _times(w.end, nc - (slope - _times(linear, y1)))
        return Step(t0, t1, y0, y1, error, Carry(slope, linear, size, kept), (carry.slope, slope))

    def densify(self, f: VectorField, step: Step) -> Step:
        return step

    def _fitting(self, y0: Tensor) -> np.ndarray:
        if self.linear is None:
            raise OptionError(
                "solver 'etdrk4' has to be told the linear part of f: from odekit_solvers.etdrk4 import ETDRK4, "
                "and solver=ETDRK4(linear=L) with a matrix L [n, n] or its diagonal [n]"
            )
        n = len(self.linear)
        if y0.ndim == 0 or y0.shape[-1] != n:
            raise InputError(
                f"linear of shape {self.linear.shape} acts on the last axis of the state, whose shape is "
                f"{tuple(y0.shape)}; that axis has to have {n} entries"
            )
        if np.iscomplexobj(self.linear) and not y0.is_complex():
            raise InputError(f"linear is complex and the state {y0.dtype}; give y0 as a complex tensor")
        return self.linear

    def _weights(self, t0: Time, t1: Time, y0: Tensor, carry: Carry) -> tuple[float, Weights]:
        """The weights of this step and the size that they are for: those at hand if only rounding sets them apart."""
        begin, end = host(t0), host(t1)
        size = end - begin
        rounding = min(4 * math.ulp(max(abs(begin), abs(end))), 1e-9 * abs(size))
        if carry.weights is not None and abs(size - carry.size) <= rounding:
            return carry.size, Weights(*(weight.detach() for weight in carry.weights))
        weights = _weights(*_phis(self._fitting(y0) * size), size)
        return size, Weights(*(_on_device(weight, y0) for weight in weights))

    def _differentiable(self, kept: Weights, size: float, dt: Tensor, y0: Tensor) -> Weights:
        """The weights to first order in the step size."""
        linear = self._fitting(y0)
        slopes = _slopes(*_phis(linear * size), linear)
        change = (first_only(dt, _SECOND) - dt.detach()).to(y0.real.dtype)
        return Weights(*(weight + change * _on_device(slope, y0) for weight, slope in zip(kept, slopes, strict=True)))


def _phis(z: np.ndarray) -> tuple[Phis, Phis]:
    """The φ functions of ``z / 2`` and of ``z``."""
    return phis_of_matrix(z) if z.ndim == 2 else (phis_of_numbers(z / 2), phis_of_numbers(z))


def _weights(half: Phis, whole: Phis, dt: float) -> Weights:
    """(26)-(29) in φ functions, dt included."""
    zero, one, two, three = whole
    return Weights(
        half=half[0],
        whole=zero,
        stage=dt / 2 * half[1],
        start=dt * (one - 3 * two + 4 * three),
        middle=dt * (2 * two - 4 * three),
        end=dt * (4 * three - two),
    )


def _slopes(half: Phis, whole: Phis, linear: np.ndarray) -> Weights:
    """Their derivatives with respect to dt, by d/dt (t φ_k(t L)) = φ_{k-1} - (k-1) φ_k, and L φ_0 for φ_0."""
    zero, one, two, three = whole
    product = np.matmul if linear.ndim == 2 else np.multiply
    return Weights(
        half=product(linear, half[0]) / 2,
        whole=product(linear, zero),
        stage=half[0] / 2,
        start=zero - 3 * one + 7 * two - 8 * three,
        middle=2 * one - 6 * two + 8 * three,
        end=5 * two - one - 8 * three,
    )


def _on_device(array: np.ndarray, y: Tensor) -> Tensor:
    """A host array in the dtype of ``y``, on its device; narrowed on the host, for not every device has doubles."""
    narrow = np.complex64 if y.is_complex() else np.float32
    with np.errstate(over="ignore"):
        array = array.astype(_WIDE.get(y.dtype, narrow))
    return torch.from_numpy(array).to(y.device, y.dtype)


_WIDE: dict[torch.dtype, Any] = {torch.float64: np.float64, torch.complex128: np.complex128}


def _times(linear: Tensor, y: Tensor) -> Tensor:
    """A matrix, or one given by its diagonal, on the last axis of ``y``."""
    return linear * y if linear.ndim == 1 else y @ linear.mT


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(ETDRK4)
