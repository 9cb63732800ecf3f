"""The continuous adjoint on the forward dense output: nothing but the adjoint is solved backwards."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from odekit.core.field import Field
from odekit.core.problem import Problem
from odekit.core.protocols import ODESolver, Outcome, StepControl
from odekit.core.rows.answer import RowOutcome
from odekit.core.rows.one_by_one import solve_one_by_one
from odekit.core.rows.problem import RowProblem
from odekit.core.tolerance import NORMS, Norm, checked, resolve_norm
from odekit.errors import InputError, nearest
from odekit.gradients.continuous import Continuous, ContinuousTape, WayBack, recorded
from odekit.gradients.direct import Direct
from odekit.gradients.forwards import unrecorded
from odekit.gradients.quadrature import Quadrature
from odekit.gradients.stations import Stations
from odekit.gradients.trajectory import Trajectory
from odekit.gradients.transport import Transport


def _known_norm(instance: Any, attribute: Any, value: Any) -> None:
    if not callable(value) and value not in NORMS:
        raise InputError(
            f"norm {value!r} of the interpolated adjoint is not known. {nearest(str(value), NORMS)} Only the adjoint "
            "is solved backwards, so there are no parts to tell apart"
        )


@attrs.frozen
class Interpolated(Continuous):
    """Solves da/dt = -aᵀ∂f/∂y backwards from ∂L/∂y(t1), with y(t) from the dense output of the forward solve.

    The state is not solved backwards, so that it cannot drift, however strongly the system contracts, and an implicit
    solver takes stiff problems both ways. The price is memory: every accepted step is kept with its dense output. The
    gradient is that of the ODE: its error is of the size of the tolerances, and that of the dense output. The
    parameters' integral is taken by Gauss-Legendre quadrature over the accepted backward steps
    (:class:`~odekit.gradients.quadrature.Quadrature`). With ``batch="rows"`` the rows are solved one after the other.
    Serban & Hindmarsh 2005, *CVODES: the sensitivity-enabled ODE solver in SUNDIALS*; Kim, Ji, Deng, Ma & Rackauckas
    2021, *Stiff neural ordinary differential equations*.

    Attributes:
        solver: for the backward solve, a name or an instance; the forward one by default.
        rtol, atol: of the backward solve; the forward ones by default.
        norm: of the backward error, on the adjoint: ``"rms"``, ``"max"``, or a callable on the packed adjoint.
        step_size, control: of the backward solve; the forward control by default.
        callback: hooks of the backward solve, told the packed adjoint: a function or a Callbacks.
    """

    norm: str | Norm = attrs.field(default="rms", validator=_known_norm)

    name = "interpolated"
    twice = True
    memory = "steps × (state + stages) + one evaluation's activations"

    def solve(self, problem: Problem, solver: ODESolver, control: StepControl) -> Outcome:
        if not torch.is_grad_enabled():
            return unrecorded(problem, solver, control)
        return recorded(_Tape(self, problem, solver, control))

    def solve_rows(self, problem: RowProblem, solver: ODESolver, control: StepControl) -> RowOutcome:
        if not torch.is_grad_enabled():
            return Direct().solve_rows(problem, solver, control)
        return solve_one_by_one(problem, self, solver, control)


class _Tape(ContinuousTape):
    """The trajectory, and what the backward solve along it needs."""

    method = "interpolated"

    def __init__(self, method: Interpolated, problem: Problem, solver: ODESolver, control: StepControl) -> None:
        super().__init__(method, problem, solver, control)
        rtol, atol = self.tolerances(method)
        self.tolerance = checked(rtol, atol, problem.y0.dtype, resolve_norm(method.norm))
        self.trajectory = Trajectory(self.problem.course.recorder)
        if self.dependencies.needed:
            course = attrs.evolve(self.problem.course, recorder=self.trajectory)
            self.problem = attrs.evolve(self.problem, course=course)

    def way_back(self, field: Field, inputs: list[Tensor]) -> WayBack:
        return _Along(self, field, inputs)


class _Along(WayBack):
    """Solves for the adjoint along the trajectory."""

    def __init__(self, tape: _Tape, field: Field, inputs: list[Tensor]) -> None:
        super().__init__(tape, tape.tolerance)
        trajectory, stops = tape.trajectory, tape.problem.course.stops
        check = functools.partial(tape.dependencies.check_none_missed, method=tape.method)

        def check_all(outputs: Sequence[Tensor], states: Sequence[Tensor]) -> None:
            check(outputs, [*states, *inputs])

        def located(t: float, adjoint: Tensor) -> tuple[Tensor, Tensor]:
            return trajectory.state(t), adjoint

        self.system = Transport(field, trajectory, check_all)
        self.quadrature = Quadrature(field, inputs, tape.solver.order, stops, located, check)

    def go(self, stations: Stations, at: int, adjoint: Tensor) -> Tensor:
        return self.integrate(self.system, adjoint, stations.times[at], stations.times[at - 1], self.quadrature)

    def gradients(self) -> list[Tensor | None]:
        return self.quadrature.sums
