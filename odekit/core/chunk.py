"""Several equal steps of a solver as one step, for whoever pays by the step rather than by the call of f."""

from __future__ import annotations

import math
from typing import Any

import attrs
import torch
from torch import Tensor

from odekit.core.control import FixedStep
from odekit.core.problem import Problem
from odekit.core.protocols import ODESolver, Step, StepControl, VectorField
from odekit.core.times import Time, coefficient
from odekit.core.wrapper import Wrapper


@attrs.frozen(eq=False)
class Chunk(Wrapper):
    """``count`` equal steps of ``solver``, told of as one. Without an error estimate: for fixed steps only.

    Dense output is that of the step in which a time lies, which are all taken once more for it.
    """

    count: int

    def step(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Any) -> Step:
        last = self._steps(f, t0, t1, y0, carry)[-1]
        return Step(t0, t1, y0, last.y1, carry=last.carry, dense=carry, status=last.status)

    def densify(self, f: VectorField, step: Step) -> Step:
        steps = [self.solver.densify(f, each) for each in self._steps(f, step.t0, step.t1, step.y0, step.dense)]
        return attrs.evolve(step, dense=tuple(attrs.astuple(each, recurse=False) for each in steps))

    def interpolate(self, step: Step, theta: Time) -> Tensor:
        return self._read("interpolate", step, theta)

    def derivative(self, step: Step, theta: Time) -> Tensor:
        return self._read("derivative", step, theta)

    def _steps(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Any) -> list[Step]:
        steps: list[Step] = []
        y, start = y0, t0
        for k in range(1, self.count + 1):
            end = t1 if k == self.count else t0 + (t1 - t0) * (k / self.count)
            step = self.solver.advance(f, start, end, y, carry)
            steps.append(step)
            if not step.status.ok:
                break
            y, carry, start = step.y1, step.carry, end
        return steps

    def _read(self, what: str, step: Step, theta: Time) -> Tensor:
        """What the solver gives for the step in which ``theta`` lies."""
        steps = [Step(*each) for each in step.dense]
        place = coefficient(theta * self.count, step.y0)
        read = getattr(self.solver, what)
        if not isinstance(place, Tensor):
            k = min(int(place), self.count - 1)
            found: Tensor = read(steps[k], place - k)
            return found
        found = read(steps[0], place)
        for k in range(1, self.count):
            found = torch.where(place >= k, read(steps[k], place - k), found)
        return found


LONGEST = 16
"""Steps in a chunk at most; a graph has all of them, and takes the longer to compile."""


def chunked(
    problem: Problem, solver: ODESolver, control: StepControl
) -> tuple[Problem, ODESolver, StepControl, int]:  # fmt: skip
    """The same solve in chunks of equal numbers of steps, and that number: 1 where it goes step by step.

    It does so where steps adapt, where something is to be done at the end of a step, and where there are more outputs
    than chunks, since an output inside a chunk costs its steps once more.
    """
    course, t0, t1 = problem.course, problem.times[0], problem.times[-1]
    busy = course.watches or course.every_step or course.stops.times or not course.callbacks.silent
    if busy or not isinstance(control, FixedStep) or t0 == t1:
        return problem, solver, control, 1
    count = control.count(t0, t1)
    length = max(k for k in range(1, LONGEST + 1) if count % k == 0)
    chunks = count // length
    if length == 1 or len(problem.times) - 2 > chunks:
        return problem, solver, control, 1
    problem = attrs.evolve(problem, max_steps=math.ceil(problem.max_steps / length))
    return problem, Chunk(solver, length), FixedStep(abs(t1 - t0) / chunks), length
