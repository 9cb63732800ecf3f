"""What the continuous adjoints share: their settings, and the way back from station to station."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from odekit.core.callbacks import Callbacks, resolve_callbacks
from odekit.core.control import resolve_control
from odekit.core.course import Course
from odekit.core.dense import Kept, Recorder
from odekit.core.field import Field
from odekit.core.integrate import integrate
from odekit.core.outputs import Slot
from odekit.core.problem import Problem
from odekit.core.protocols import CountedField, GradientMethod, ODESolver, Outcome, StepControl
from odekit.core.sections import Stops
from odekit.core.solution import Stats
from odekit.core.times import Clock
from odekit.core.tolerance import Norm, Tolerance
from odekit.errors import OptionError, SolveError
from odekit.gradients.captured import Dependencies
from odekit.gradients.forwards import retraced, unrecorded
from odekit.gradients.stations import Stations
from odekit.gradients.tape import Tape, record

_NO_SLOTS: tuple[Slot, ...] = ()


@attrs.frozen
class Continuous(GradientMethod):
    """A gradient that is that of the ODE: from another ODE, solved backwards.

    Attributes:
        solver: for the backward solve, a name or an instance; the forward one by default.
        rtol, atol: of the backward solve; the forward ones by default.
        norm: of the backward error.
        step_size, control: of the backward solve; the forward control by default.
        callback: hooks of the backward solve, told its packed states: a function or a Callbacks.
    """

    solver: ODESolver | str | None = None
    rtol: float | None = None
    atol: float | None = None
    norm: str | Norm = "rms"
    step_size: float | None = None
    control: StepControl | str | None = None
    callback: Callbacks | Callable[[float, Any], Any] | None = None

    exact = False

    def prepared(self, solver_named: Callable[[str], ODESolver]) -> GradientMethod:
        return attrs.evolve(self, solver=solver_named(self.solver)) if isinstance(self.solver, str) else self


def recorded(tape: ContinuousTape) -> Outcome:
    """The outcome of the forward solve, whose backward pass goes by the tape."""
    ys, y1 = record(tape)
    return attrs.evolve(tape.outcomes.pop(), ys=ys, y1=y1)


class ContinuousTape(Tape):
    """The settings of the backward solve, checked before the forward one begins, and what it will need.

    Attributes:
        problem: as the forward solve is to go through it.
        solver, control: of the backward solve.
    """

    needs_outputs = True

    def __init__(self, method: Continuous, problem: Problem, solver: ODESolver, control: StepControl) -> None:
        self.problem, self.y0, self.ts = problem, problem.y0, problem.ts
        self.forward_solver, self.forward_control = solver, control
        self.solver = method.solver if isinstance(method.solver, ODESolver) else solver
        if self.solver.structure != "general":
            raise OptionError(
                f"solver {self.solver.name!r} is for {self.solver.structure} systems, and the system that "
                f"gradient={method.name!r} solves backwards is none; use gradient='checkpointed', or a general solver "
                f"for the way back: gradient={type(method).__name__}(solver='dopri5')"
            )
        own = method.control is not None or method.step_size is not None
        self.control = resolve_control(method.control if own else control, method.step_size, self.solver)
        self.dependencies = Dependencies(problem)
        if self.dependencies.needed:
            self.problem = problem.sparing()
        self.callbacks = resolve_callbacks(method.callback)
        self.outcomes: list[Outcome] = []
        self.stats, self.reached, self.slots = Stats(), problem.times[0], _NO_SLOTS

    @abstractmethod
    def way_back(self, field: Field, inputs: list[Tensor]) -> WayBack:
        """What one backward pass does between stations; f is ``field``, as a function of ``inputs``."""

    def solve(self) -> tuple[Tensor, Tensor]:
        outcome = unrecorded(self.problem, self.forward_solver, self.forward_control, self.dependencies.f0)
        self.outcomes.append(outcome)
        self.stats, self.reached, self.slots = outcome.stats, outcome.t1, outcome.slots
        return outcome.ys, outcome.y1

    def pull(
        self, outputs: Sequence[Tensor], grad_ys: Tensor, grad_y1: Tensor, time_gradient: bool
    ) -> list[Tensor | None]:
        inputs = self.dependencies.inputs()
        field: Field = self.dependencies.field(self.problem, inputs)
        stations = Stations(self.problem, field, self.slots, self.reached, outputs, (grad_ys, grad_y1), time_gradient)
        way = self.way_back(field, inputs)
        adjoint = stations.end()
        for at in range(stations.last, 0, -1):
            if bool(adjoint.any()):  # else no later state matters to the loss
                adjoint = way.go(stations, at, adjoint)
            adjoint = adjoint + stations.arriving(at - 1)
        grad_y0 = stations.start(adjoint)
        self.stats.nfe_backward += field.nfe
        return [grad_y0, stations.grad_ts, *way.gradients()]

    def retrace(self, y0: Tensor, ts: Tensor, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        return retraced(
            self.problem, self.dependencies, self.forward_solver, self.forward_control, self.stats, y0, ts, inputs
        )

    def tolerances(self, method: Continuous) -> tuple[float | Tensor, float | Tensor]:
        """The relative and absolute tolerance for the adjoint: the method's own ones, or the forward ones."""
        problem, forward = self.problem, self.problem.tolerance
        rtol, atol = forward.rtol, forward.atol
        if method.rtol is not None:
            rtol = problem.layout.pack_tolerance(method.rtol, "the adjoint's rtol", problem.y0)
        if method.atol is not None:
            atol = problem.layout.pack_tolerance(method.atol, "the adjoint's atol", problem.y0)
        return rtol, atol


class WayBack(ABC):
    """One backward pass. Go back section by section, then ask for the gradients."""

    def __init__(self, tape: ContinuousTape, tolerance: Tolerance) -> None:
        self.tape, self.tolerance = tape, tolerance
        self._control, self._budget = tape.control, tape.problem.max_steps

    @abstractmethod
    def go(self, stations: Stations, at: int, adjoint: Tensor) -> Tensor:
        """The adjoint at the station before ``at``, where it is ``adjoint``."""

    @abstractmethod
    def gradients(self) -> list[Tensor | None]:
        """The gradients with respect to what f depends on; None where f was not seen to depend."""

    def integrate(
        self, system: CountedField, z: Tensor, t1: float, t0: float, recorder: Recorder[Kept] | None
    ) -> Tensor:
        """Solve the system from ``z`` at ``t1`` back to ``t0``, with the steps that earlier sections have arrived at.

        Raises:
            SolveError: that did not get there.
        """
        tape, jumps = self.tape, self.tape.problem.course.stops.jumps
        course = Course(stops=Stops.of((), jumps, t1, t0), callbacks=tape.callbacks, recorder=recorder)
        with torch.no_grad():
            outcome = integrate(
                system, z, Clock((t1, t0)), tape.solver, self._control, self.tolerance, max(self._budget, 1),
                course=course,
            )  # fmt: skip
        if not outcome.status.ok:
            raise SolveError(
                f"the backward solve of gradient={tape.method!r} stopped at t = {outcome.t1:g} on its way from {t1:g} "
                f"to {t0:g}: {outcome.status}. {outcome.status.hint} "
                "gradient='checkpointed' has no backward solve to fail.",
                outcome.status,
            )
        self._budget -= outcome.stats.steps
        self._control = tape.control.resumed(outcome.step_size)
        tape.stats.steps_backward += outcome.stats.steps
        return outcome.y1
