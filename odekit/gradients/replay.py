"""An accepted step taken again: with gradients, or only for the state that it ends in."""

from __future__ import annotations

from typing import Any

import attrs
import optree
import torch
from torch import Tensor

from odekit.core.accepted import Accepted, Passage
from odekit.core.field import Field
from odekit.core.integrate import around
from odekit.core.outputs import at_end, states_in
from odekit.core.protocols import CountedField, ODESolver
from odekit.core.times import Clock
from odekit.gradients.products import flowing, flows


@attrs.frozen(eq=False)
class Replayed:
    """A step taken again with gradients.

    Attributes:
        inputs: the leaves that it started from: y0, and the tensors of its carry where that is not computed anew.
        places: where in the carry those tensors are. A step may start from other ones than the step before handed on:
            what a rejected try left to it.
        y1, carry, states: what came out: the state, the tensors handed on by their places, the states at output times.
        handed_on: the carry that it left.
    """

    inputs: list[Tensor]
    places: list[Any]
    y1: Tensor
    carry: dict[Any, Tensor]
    states: list[Tensor]
    handed_on: Any = None


def replay(
    field: Field, solver: ODESolver, clock: Clock, step: Accepted, before: Replayed | None = None
) -> Replayed:  # fmt: skip
    """Take the step with gradients: from leaves of its own, or going on from the step ``before`` it."""
    if step.section is not None:
        field = field.confined(step.section)
    with torch.enable_grad():
        t0, t1 = clock(step.t0), clock(step.t1)
        y0 = step.y0.detach().requires_grad_() if before is None else before.y1
        inputs: list[Tensor] = [y0]
        places: list[Any] = []
        if before is not None and not solver.memoryless:
            carry = before.handed_on
        elif solver.memoryless:
            carry = solver.init(field, t0, y0)
        elif step.fresh:
            carry = solver.init(field, t0, y0, field(t0, y0))
        else:
            paths, leaves, treespec = optree.tree_flatten_with_path(step.carry, none_is_leaf=True)
            leaves = [leaf.detach().requires_grad_() if flows(leaf) else leaf for leaf in leaves]
            inputs += [leaf for leaf in leaves if flows(leaf)]
            places = [path for path, leaf in zip(paths, leaves, strict=True) if flows(leaf)]
            carry = optree.tree_unflatten(treespec, leaves)
        inside = any(not at_end(clock, slot, step.t1) for slot in step.slots)
        if solver.memoryless and not inside:
            y1 = solver.replay(field, t0, t1, y0, carry)
            return Replayed(inputs, places, y1, {}, [y1] * len(step.slots))
        taken = solver.step(field, t0, t1, y0, carry)
        taken, states = states_in(field, solver, taken, step.t1, clock, step.slots)
        handed_on = {} if solver.memoryless else flowing(taken.carry)
        return Replayed(inputs, places, taken.y1, handed_on, states, taken.carry)


def retake(
    field: Field, solver: ODESolver, adaptive: bool, passage: Passage, state: tuple[Tensor, Any], following: Passage
) -> tuple[Tensor, Any]:
    """What the following step starts from: the state and the carry. No gradients.

    Rejected tries that changed what the solver was handed are taken again too.
    """
    f, (y0, carry) = around(field, passage.section), state
    with torch.no_grad():
        if carry is None:
            carry = solver.init(f, passage.t0, y0, f(passage.t0, y0) if passage.fresh else None)
            carry = _after_tries(f, solver, passage, y0, carry)
        take = solver.step if adaptive else solver.advance
        taken = take(f, passage.t0, passage.t1, y0, carry)
        if following.fresh:
            return taken.y1, None
        return taken.y1, _after_tries(around(field, following.section), solver, following, taken.y1, taken.carry)


def _after_tries(f: CountedField, solver: ODESolver, passage: Passage, y0: Tensor, carry: Any) -> Any:
    for end in passage.tries:
        carry = solver.step(f, passage.t0, end, y0, carry).retry
    return carry
