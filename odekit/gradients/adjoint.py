"""The continuous adjoint: gradients from a second ODE, solved backwards."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from odekit.core.field import Field
from odekit.core.problem import Problem
from odekit.core.protocols import ODESolver, Outcome, StepControl
from odekit.core.rows.answer import RowOutcome
from odekit.core.rows.problem import RowProblem
from odekit.core.tolerance import NORMS, Norm, Tolerance, checked, rms
from odekit.errors import AdjointDriftWarning, GradientError, InputError, nearest
from odekit.gradients import rows_adjoint
from odekit.gradients.augmented import Augmented, Parts
from odekit.gradients.continuous import Continuous, ContinuousTape, WayBack, recorded
from odekit.gradients.forwards import unrecorded
from odekit.gradients.quadrature import Quadrature, keeps_up
from odekit.gradients.stations import Stations

_MANY = 1000
"""From so many parameters on, their integral in the state costs more than the calls of f that a quadrature takes."""
_DRIFT_STEPS = 1e3
"""Local errors that may have piled up in a backward solve of y before its gradient is called into question."""


def _mixed(parts: Parts) -> Norm:
    return lambda z: torch.stack([rms(part) for part in parts.split(z) if part.numel()]).amax()


def _seminorm(parts: Parts) -> Norm:
    return lambda z: torch.stack([rms(part) for part in parts.split(z)[:2] if part.numel()]).amax()


_PARTED: dict[str, Callable[[Parts], Norm]] = {"mixed": _mixed, "seminorm": _seminorm}


def _known_norm(instance: Any, attribute: Any, value: Any) -> None:
    if not callable(value) and value not in _PARTED and value not in NORMS:
        raise InputError(f"adjoint norm {value!r} is not known. {nearest(str(value), [*_PARTED, *NORMS])}")


def _yes_no_or_none(instance: Any, attribute: Any, value: Any) -> None:
    if value is not None and not isinstance(value, bool):
        raise InputError(f"quadrature={value!r}: expected True, False, or None for the choice of the method")


@attrs.frozen
class Adjoint(Continuous):
    """Solves [f, -aᵀ∂f/∂y, -aᵀ∂f/∂θ] backwards from [y(t1), ∂L/∂y(t1), 0].

    Memory does not grow with the number of steps. The gradient is that of the ODE, not of the computed numbers: its
    error is of the size of the tolerances, and on systems that contract strongly the backward solve of y is unstable
    (an :class:`~odekit.errors.AdjointDriftWarning` says when it lost the trajectory). At every output time y is set to
    the stored forward value. Chen et al. 2018, *Neural ordinary differential equations*, Algorithm 1.

    Attributes:
        solver: for the backward solve, a name or an instance; the forward one by default.
        rtol, atol: of the backward solve; the forward ones by default.
        norm: of the backward error: ``"mixed"`` (the largest RMS among y, a and the parameters' integral),
            ``"seminorm"`` (without the integral, which no derivative depends on: Kidger, Chen & Lyons 2021, *Hey,
            that's not an ODE*), ``"rms"``, ``"max"``, or a callable on the packed backward state.
        step_size, control: of the backward solve; the forward control by default.
        callback: hooks of the backward solve, told its packed states: a function or a Callbacks.
        quadrature: whether the parameters' integral is taken by Gauss-Legendre quadrature over the accepted steps
            (:class:`~odekit.gradients.quadrature.Quadrature`) instead of being a part of the state. The packed state is
            then [y, a], the integral has no part in any norm, and ``"mixed"`` and ``"seminorm"`` are the same. None
            stands for True where that is faster as a rule: f depends on 1000 numbers or more, the norm is one of these
            two, backward steps adapt, and the dense output of the backward solver is no more than one order below its
            steps. It also does where f has complex parameters and the state is real, which no common state can hold,
            and with ``batch="rows"``, where rows that share the parameters are solved together.
    """

    norm: str | Norm = attrs.field(default="mixed", validator=_known_norm)
    quadrature: bool | None = attrs.field(default=None, validator=_yes_no_or_none)

    name = "adjoint"
    twice = True
    memory = "output times × state + one evaluation's activations"

    def solve(self, problem: Problem, solver: ODESolver, control: StepControl) -> Outcome:
        if not torch.is_grad_enabled():
            return unrecorded(problem, solver, control)
        return recorded(_Tape(self, problem, solver, control))

    def solve_rows(self, problem: RowProblem, solver: ODESolver, control: StepControl) -> RowOutcome:
        return rows_adjoint.solve(self, problem, solver, control)


class _Tape(ContinuousTape):
    """What the backward solve of y and its adjoint needs beside what every continuous adjoint does."""

    method = "adjoint"

    def __init__(self, method: Adjoint, problem: Problem, solver: ODESolver, control: StepControl) -> None:
        super().__init__(method, problem, solver, control)
        tensors = self.dependencies.tensors
        alike = problem.y0.is_complex() or not any(tensor.is_complex() for tensor in tensors)
        self.quadrature = method.quadrature
        if self.quadrature is None:
            self.quadrature = not alike or self._pays(method.norm)
        if not (alike or self.quadrature):
            raise GradientError(
                "f has complex parameters but a real state, which gradient='adjoint' cannot integrate together; "
                "leave quadrature=False out, or use gradient='checkpointed'"
            )
        self.parts = Parts(problem.y0, [] if self.quadrature else tensors)
        rtol, atol = self.tolerances(method)
        norm = method.norm
        if isinstance(norm, str):
            norm = _PARTED[norm](self.parts) if norm in _PARTED else NORMS[norm]
        self.tolerance = checked(self.parts.spread(rtol), self.parts.spread(atol), problem.y0.dtype, norm)
        self.drift_allowed = self._drift_allowed(rtol, atol)

    def way_back(self, field: Field, inputs: list[Tensor]) -> WayBack:
        return _ByQuadrature(self, field, inputs) if self.quadrature else _WithIntegrals(self, field, inputs)

    def _pays(self, norm: str | Norm) -> bool:
        parted = isinstance(norm, str) and norm in _PARTED
        many = sum(tensor.numel() for tensor in self.dependencies.tensors) >= _MANY
        return parted and many and self.control.adaptive and keeps_up(self.solver)

    def _drift_allowed(self, rtol: float | Tensor, atol: float | Tensor) -> Tolerance:
        if not (self.control.adaptive and self.forward_control.adaptive):
            return Tolerance(rtol=0.02, atol=1e-3)
        forward = self.problem.tolerance
        return Tolerance(_DRIFT_STEPS * _larger(rtol, forward.rtol), _DRIFT_STEPS * _larger(atol, forward.atol))


def _larger(a: float | Tensor, b: float | Tensor) -> float | Tensor:
    if isinstance(a, Tensor):
        return a.clamp_min(b)
    return b.clamp_min(a) if isinstance(b, Tensor) else max(a, b)


class _WithIntegrals(WayBack):
    """Solves for y, a and the parameters' integrals."""

    def __init__(self, tape: _Tape, field: Field, inputs: list[Tensor]) -> None:
        super().__init__(tape, tape.tolerance)
        self.parts, self.drift_allowed = tape.parts, tape.drift_allowed
        check = functools.partial(tape.dependencies.check_none_missed, method=tape.method)
        self.system = Augmented(field, inputs, tape.parts, check)
        self.integrals = tape.parts.no_integrals()

    def go(self, stations: Stations, at: int, adjoint: Tensor) -> Tensor:
        t1, t0 = stations.times[at], stations.times[at - 1]
        z = self.parts.join(stations.states[at], adjoint, self.integrals)
        y, adjoint, self.integrals = self.parts.split(self.integrate(self.system, z, t1, t0, None))
        _warn_of_drift(self.drift_allowed, y.reshape(self.parts.shape), stations.states[at - 1], t1, t0)
        return adjoint.reshape(self.parts.shape)

    def gradients(self) -> list[Tensor | None]:
        pairs = zip(self.parts.gradients(self.integrals), self.system.used, strict=True)
        return [grad if used else None for grad, used in pairs]


class _ByQuadrature(WayBack):
    """Solves for y and a; what f depends on is seen to in every accepted step."""

    def __init__(self, tape: _Tape, field: Field, inputs: list[Tensor]) -> None:
        super().__init__(tape, tape.tolerance)
        self.parts, self.drift_allowed = tape.parts, tape.drift_allowed
        check = functools.partial(tape.dependencies.check_none_missed, method=tape.method)

        def check_all(outputs: Sequence[Tensor], states: Sequence[Tensor]) -> None:
            check(outputs, [*states, *inputs])

        self.system = Augmented(field, [], tape.parts, check_all)
        self.quadrature = Quadrature(field, inputs, tape.solver.order, tape.problem.course.stops, self._located, check)

    def _located(self, t: float, z: Tensor) -> tuple[Tensor, Tensor]:
        y, adjoint, _ = self.parts.split(z)
        return y.reshape(self.parts.shape), adjoint.reshape(self.parts.shape)

    def go(self, stations: Stations, at: int, adjoint: Tensor) -> Tensor:
        t1, t0 = stations.times[at], stations.times[at - 1]
        z = self.parts.join(stations.states[at], adjoint, self.parts.no_integrals())
        y, adjoint = self._located(t0, self.integrate(self.system, z, t1, t0, self.quadrature))
        _warn_of_drift(self.drift_allowed, y, stations.states[at - 1], t1, t0)
        return adjoint

    def gradients(self) -> list[Tensor | None]:
        return self.quadrature.sums


def _warn_of_drift(tolerance: Tolerance, found: Tensor, stored: Tensor, t1: float, t0: float) -> None:
    drift = float(tolerance.ratio(found - stored, stored, found))
    if not drift <= 1:
        warnings.warn(
            f"solving y backwards from t = {t1:g} to {t0:g} missed the forward trajectory by {drift:.2g} times what "
            "can be put down to the tolerance or step size, so this adjoint gradient is not to be trusted; use "
            "gradient='checkpointed', tighten rtol=/atol=, or add output times in between (the state is reset there)",
            AdjointDriftWarning,
            stacklevel=2,
        )
