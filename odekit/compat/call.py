"""One call of odeint: what it was given, checked, and how odekit answers it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import optree
import torch
from torch import Tensor

from odekit.compat.dynamics import Dynamics
from odekit.compat.errors import ArgumentError
from odekit.compat.events import First
from odekit.compat.norms import StateNorm, on_packed
from odekit.compat.plans import Plan, Span
from odekit.core.callbacks import Callbacks
from odekit.core.events import Event
from odekit.core.solution import Solution
from odekit.core.state import lay_out
from odekit.solving import solve


@attrs.frozen(eq=False)
class Answer:
    """States ``[T, ...]`` at the output times, nested as y0; for an event, its time and the states at both ends."""

    states: Any
    event_t: Tensor | None = None


@attrs.frozen(eq=False)
class Call:
    """The arguments of one solve.

    Attributes:
        norm: of a state nested as y0.
        options: those that the method takes.
        event: what ends the solve; None where the last time does.
    """

    func: Callable[[Tensor, Any], Any]
    y0: Any
    t: Tensor
    rtol: Any
    atol: Any
    norm: StateNorm
    options: Mapping[str, Any]
    hooks: Callbacks
    event: First | None = None

    @property
    def span(self) -> Span:
        """What is to be solved."""
        return Span(self.func, self.y0, None if self.event is not None else self.t, float(self.t[0].detach()))

    def solved(self, plan: Plan) -> Answer:
        """What odekit answers, with gradients through every operation."""
        if self.event is None:
            return Answer(self._solution(plan, self.t, dense=False).ys)
        end = torch.copysign(torch.full_like(self.t[0], torch.inf), (self.t[1] - self.t[0]).detach())
        solution = self._solution(plan, torch.stack([self.t[0], end]), dense=False, events=Event(self.event))
        states = optree.tree_map(lambda y0, y1: torch.stack([y0, y1]), self.y0, solution.y1)
        return Answer(states, solution.events[0].ts[-1].to(self.t))

    def interpolant(self, plan: Plan) -> Callable[[Any], Any]:
        """The state as a function of time within the span."""
        return self._solution(plan, self.t, dense=True).interpolate

    def _solution(self, plan: Plan, t: Tensor, *, dense: bool, events: Event | None = None) -> Solution:
        _, layout = lay_out(self.y0)
        adaptive = plan.control.adaptive  # a fixed-step method iterates to odekit's own tolerances
        rtol, atol = (tolerance(value) if adaptive else None for value in (self.rtol, self.atol))
        return solve(
            Dynamics(self.func), self.y0, t, solver=plan.solver, control=plan.control, rtol=rtol, atol=atol,
            norm=on_packed(self.norm, layout), max_steps=plan.max_steps, events=events,
            step_times=plan.step_times, jump_times=plan.jump_times, callback=self.hooks, dense=dense,
        )  # fmt: skip


def checked_times(t: Any, event: bool) -> Tensor:
    """``t``, if it is one; with an event only its first entry and its direction count.

    Raises:
        ArgumentError: it is no tensor, not one-dimensional, has an integer dtype or is not strictly monotone.
    """
    if not isinstance(t, Tensor):
        raise ArgumentError(f"t is a {type(t).__name__}; expected a tensor of times [T], the first being t0")
    if t.ndim != 1:
        raise ArgumentError(f"t has shape {tuple(t.shape)}; expected [T], one-dimensional")
    if not len(t):
        raise ArgumentError("t is empty; expected [T], the first being t0")
    if not t.is_floating_point():
        raise ArgumentError(f"t has dtype {t.dtype}; expected floating-point times, such as t.double()")
    if event and len(t) != 2:
        raise ArgumentError(
            f"t has {len(t)} entries; with event_fn expected 2: t0, and any time in the wanted direction"
        )
    times = t.detach().tolist()
    pairs = list(itertools.pairwise(times))
    if not (all(a < b for a, b in pairs) or all(a > b for a, b in pairs)):
        raise ArgumentError("t must be strictly increasing or decreasing")
    return t


def in_one_dtype(y0: Any) -> Any:
    """A tuple of tensors in the dtype that holds them all; anything else as it is."""
    if not (isinstance(y0, tuple) and y0 and all(isinstance(part, Tensor) for part in y0)):
        return y0
    dtype = functools.reduce(torch.promote_types, (part.dtype for part in y0))
    return tuple(part.to(dtype) for part in y0)


def tolerance(value: Any) -> Any:
    """A tolerance as odekit takes it: a number, a tensor, or a tuple with one for each part of the state."""
    if isinstance(value, Tensor):
        if value.requires_grad:
            raise ArgumentError("a tolerance cannot require gradient")
        return float(value) if value.ndim == 0 else value
    if isinstance(value, list | tuple):
        return tuple(torch.as_tensor(part) for part in value)
    return float(value)
