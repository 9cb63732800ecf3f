"""Step doubling: an error estimate for methods that have none of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor

from odekit.core.protocols import ODESolver, Step, VectorField
from odekit.core.solution import Status
from odekit.core.times import Time, coefficient
from odekit.core.wrapper import Wrapper
from odekit.errors import InputError


def _solver(given: Any) -> ODESolver:
    made = given() if isinstance(given, type) and issubclass(given, ODESolver) else given
    if not isinstance(made, ODESolver):
        raise InputError(f"Doubling({given!r:.80}): expected a solver, an ODESolver instance or class, not its name")
    return made


@attrs.frozen(eq=False)
class Doubling(Wrapper):
    """Any one-step solver with adaptive steps: every step is taken in two halves, and once as a whole to compare.

    With y2 after the two halves, w after the whole and p the order of the solver, y2 is wrong by about
    (y2 - w) / (2^p - 1), which is the error estimate. y2 itself is the answer, without that added, so that whatever the
    solver's steps keep is kept. Hairer, Nørsett & Wanner, *Solving ODEs I*, II.4, (4.4). Fixed steps leave the whole
    one out, and dense output is that of the half in which a time lies.

    Attributes:
        solver: the method, an instance or a class.

    Raises:
        InputError: ``solver`` is no solver.
    """

    solver: ODESolver = attrs.field(converter=_solver)

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"Doubling({self.solver.name})"

    @property
    def error_order(self) -> int:  # type: ignore[override]
        """The estimate is of the order p + 1, as if the embedded method had order p."""
        return self.solver.order

    def step(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Any) -> Step:
        if carry is None and self.memoryless:
            carry = self.solver.init(f, t0, y0, f(t0, y0))  # the slope that the whole step and its first half share
        whole = self.solver.advance(f, t0, t1, y0, carry)
        if _lost(whole):
            return attrs.evolve(whole, retry=carry if whole.retry is None else whole.retry)
        halves = self.advance(f, t0, t1, y0, carry)
        error = (halves.y1 - whole.y1) / (2**self.order - 1)
        retry = next((x for x in (halves.retry, whole.retry) if x is not None), carry)
        return attrs.evolve(halves, error=error, retry=retry, **_verdict(whole, halves))

    def advance(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Any) -> Step:
        middle = _middle(t0, t1)
        first = self.solver.advance(f, t0, middle, y0, carry)
        if _lost(first):
            return attrs.evolve(first, t1=t1)
        second = self.solver.advance(f, middle, t1, first.y1, first.carry)
        return Step(
            t0, t1, y0, second.y1, carry=second.carry, dense=(_fields(first), _fields(second)), retry=first.retry,
            **_verdict(first, second),
        )  # fmt: skip

    def replay(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Any) -> Tensor:
        middle = _middle(t0, t1)
        first = self.solver.advance(f, t0, middle, y0, carry)
        return self.solver.replay(f, middle, t1, first.y1, first.carry)

    def densify(self, f: VectorField, step: Step) -> Step:
        first, second = (self.solver.densify(f, Step(*half)) for half in step.dense)
        return attrs.evolve(step, dense=(_fields(first), _fields(second)), carry=second.carry)

    def interpolate(self, step: Step, theta: Time) -> Tensor:
        return _in_its_half(self.solver.interpolate, step, theta)

    def derivative(self, step: Step, theta: Time) -> Tensor:
        return _in_its_half(self.solver.derivative, step, theta)


def _in_its_half(read: Callable[[Step, Time], Tensor], step: Step, theta: Time) -> Tensor:
    """What ``read`` gives for the half in which ``theta`` lies."""
    first, second = (Step(*half) for half in step.dense)
    twice = coefficient(2 * theta, step.y0)
    if isinstance(twice, Tensor):
        return torch.where(twice <= 1, read(first, twice), read(second, twice - 1))
    return read(first, twice) if twice <= 1 else read(second, twice - 1)


def _middle(t0: Time, t1: Time) -> Time:
    return t0 + 0.5 * (t1 - t0)


def _fields(step: Step) -> tuple[Any, ...]:
    """A step as a plain tuple, so that whoever looks for the tensors of a dense output finds them."""
    return attrs.astuple(step, recurse=False)


def _lost(step: Step) -> bool:
    """Whether there is no going on from this step, in no row."""
    return not step.status.ok and step.row_statuses is None


def _verdict(*steps: Step) -> dict[str, Any]:
    """The first failure among these steps, and for rows with times of their own that of each row."""
    by_row = [step.row_statuses for step in steps if step.row_statuses is not None]
    status = next((step.status for step in steps if not step.status.ok), Status.SUCCESS)
    if not by_row:
        return {"status": status}
    rows = tuple(next((x for x in said if not x.ok), Status.SUCCESS) for said in zip(*by_row, strict=True))
    return {"status": status, "row_statuses": rows}
