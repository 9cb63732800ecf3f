"""A solver ready to be checked."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from odekit.core.protocols import ODESolver, Step
from odekit.core.solution import Solution
from odekit.core.tolerance import Tolerance
from odekit.errors import OptionError
from odekit.solving import solve
from odekit.testing.checks import NotApplicable
from odekit.testing.probe import Watched
from odekit.testing.problems import AUTONOMOUS, DOUBLE, TIMED, Problem

TIGHT = {"rtol": 1e-13, "atol": 1e-14}
"""For solves with fixed steps: what iterations leave must not show."""


@attrs.frozen(eq=False)
class Drive:
    """Steps taken by hand: each with what it started from and what came of it."""

    field: Watched
    solver: ODESolver
    starts: list[tuple[float, float, Tensor, Any]]
    steps: list[Step]


@attrs.frozen(eq=False)
class SolverSubject:
    """A solver, and the ways in which the checks use it."""

    solver: ODESolver

    @classmethod
    def of(cls, given: type[ODESolver] | ODESolver) -> SolverSubject:
        """The subject for a class or an instance."""
        return cls(given() if isinstance(given, type) else given)

    @property
    def timed(self) -> Problem:
        """The time-dependent problem of its structure."""
        return self._problem(TIMED)

    @property
    def autonomous(self) -> Problem:
        """The autonomous one."""
        return self._problem(AUTONOMOUS)

    def _problem(self, problems: dict[str, Problem]) -> Problem:
        structure = self.solver.structure
        if structure not in problems:
            raise NotApplicable(f"there is no problem of the structure {structure!r}")
        return problems[structure]

    @property
    def adaptive(self) -> bool:
        """Whether it estimates errors, or has a step control of its own."""
        return self.solver.error_order is not None or self.own_steps

    @property
    def own_steps(self) -> bool:
        """Whether it chooses steps by itself, inside those of the solve."""
        return self.solver.own_control() is not None

    @property
    def hand_tolerance(self) -> Tolerance:
        """Of steps taken by hand: what iterations leave must not show; steps inside a step must not become too many."""
        return Tolerance(1e-8, 1e-9) if self.own_steps else Tolerance(TIGHT["rtol"], TIGHT["atol"])

    def needs_steps(self) -> None:
        """Leave the check if the solver's steps are not those of the solve."""
        if self.own_steps:
            raise NotApplicable("the solver chooses its steps by itself, so they cannot be made smaller")

    def told(self, linear: Tensor | None) -> ODESolver:
        """The solver, told the linear part of f where it is for such problems."""
        if linear is None or self.solver.structure != "semilinear":
            return self.solver
        try:
            return attrs.evolve(self.solver, linear=linear)  # type: ignore[misc]
        except TypeError:
            raise OptionError(
                f"solver {self.solver.name!r} is for semilinear systems and takes no `linear`; "
                "give it an attrs attribute of that name: the matrix [n, n] that acts on the last axis of the state"
            ) from None

    def solve(self, problem: Problem, times: Sequence[float], y0: Any = None, **options: Any) -> Solution:
        """Solve a problem from its own state at the first time; with fixed steps if a ``step_size`` is among these."""
        start = problem.exact(times[0]) if y0 is None else y0
        fixed = TIGHT if "step_size" in options else {}
        return solve(problem.f, start, times, solver=self.told(problem.linear), **{**fixed, **options})

    def pace(self, step_size: float, rtol: float = 1e-5) -> dict[str, Any]:
        """Options for a solve of moderate accuracy: adaptive where that can be, else steps of this size."""
        return {"rtol": rtol, "atol": rtol} if self.adaptive else {"step_size": step_size}

    def drive(self, problem: Problem, grid: Sequence[float], f: Callable[..., Tensor] | None = None) -> Drive:
        """Take steps between the times of a grid, by hand."""
        solver = self.told(problem.linear).prepared(self.hand_tolerance)
        y = problem.exact(grid[0])
        field = Watched(problem.f if f is None else f, y, (grid[0], grid[-1]))
        carry = solver.init(field, grid[0], y)
        starts, steps = [], []
        for t0, t1 in itertools.pairwise(grid):
            starts.append((t0, t1, y, carry))
            step = solver.step(field, t0, t1, y, carry)
            steps.append(step)
            y, carry = step.y1, step.carry
        return Drive(field, solver, starts, steps)


def grid(problem: Problem, times: Sequence[float]) -> Tensor:
    """The exact states at these times, ``[T, n]``."""
    return torch.stack([problem.exact(t) for t in times]).to(DOUBLE)
