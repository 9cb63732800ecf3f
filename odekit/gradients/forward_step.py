"""Derivatives of the state in several directions at once, on their way forwards through accepted steps."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any, cast

import attrs
import optree
import torch
from torch import Tensor

from odekit.core.accepted import Accepted
from odekit.core.integrate import around
from odekit.core.outputs import at_end, at_rest, states_in
from odekit.core.problem import Problem
from odekit.core.protocols import ODESolver
from odekit.core.times import Clock
from odekit.errors import GradientError, OdekitError
from odekit.gradients.captured import Dependencies
from odekit.gradients.forward_field import Moved
from odekit.gradients.products import flows


@attrs.frozen(eq=False)
class Directions:
    """P directions in which what a solve depends on is moved, as tangents ``[P, ...]`` of all of it.

    Unit directions: one for every number of the initial state, if that requires grad, and of every tensor that f uses;
    two for a complex number, along the real and the imaginary axis. The first time, the last one, and those in between
    have one each, if they are differentiated; one is enough for all of the latter, since a time in between moves no
    output but its own.

    Attributes:
        places: which directions belong to y0, to each tensor, and to the times.
    """

    y0: Tensor
    tensors: list[Tensor]
    times: list[Tensor]
    places: dict[Any, slice]

    @classmethod
    def of(cls, y0: Tensor, tensors: Sequence[Tensor], ts: Tensor | None) -> Directions:
        parts: dict[Any, Tensor] = {"y0": y0} if y0.requires_grad else {}
        parts |= dict(enumerate(tensors))
        sizes = {key: x.numel() * (2 if x.is_complex() else 1) for key, x in parts.items()}
        sizes |= {} if ts is None else {"times": 3}
        ends = torch.tensor([0, *sizes.values()]).cumsum(0).tolist()
        places = {key: slice(*ends[i : i + 2]) for i, key in enumerate(sizes)}
        units = [_units(x, places[i], ends[-1]) for i, x in enumerate(tensors)]
        times = []
        if ts is not None:
            times = [torch.zeros(ends[-1], *x.shape, dtype=x.dtype, device=x.device) for x in _split(ts)]
            for k, tangent in enumerate(times):
                tangent[places["times"].start + k] = 1
        return cls(_units(y0, places.get("y0", slice(0)), ends[-1]), units, times, places)

    def __len__(self) -> int:
        return len(self.y0)


def count(y0: Tensor, tensors: Sequence[Tensor], timed: bool) -> int:
    """How many directions there would be."""
    moved = [*([y0] if y0.requires_grad else []), *tensors]
    return sum(x.numel() * (2 if x.is_complex() else 1) for x in moved) + 3 * timed


def _units(x: Tensor, place: slice, total: int) -> Tensor:
    tangent = torch.zeros(total, *x.shape, dtype=x.dtype, device=x.device)
    size, own = x.numel(), range(*place.indices(total))
    for start, unit in zip(own[::size] if size else (), (1, 1j), strict=False):
        tangent[start : start + size] = unit * torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, *x.shape)
    return tangent


def _split(ts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return ts[0], ts[-1], ts[1:-1]


class Tangents:
    """dy/dp for P directions p. Tell it the steps, from the first to the last.

    Each accepted step is taken again with P tangents: every operation is differentiated in forward mode, and vmap takes
    all directions, or ``chunk`` of them at a time, through it together. ``timed``: whether times are moved.

    Attributes:
        y: at the end of the steps so far, ``[P, ...]``.
        outputs: at the outputs so far.
        t: where the last step ended.
    """

    def __init__(
        self,
        problem: Problem,
        timed: bool,
        dependencies: Dependencies,
        solver: ODESolver,
        field: Moved,
        chunk: int | None,
    ) -> None:
        _load_forward_mode()
        self.problem, self.dependencies, self.chunk = problem, dependencies, chunk
        self.solver, self.field = solver.prepared(problem.tolerance), field
        self.timed = timed
        self.directions = Directions.of(problem.y0, field.used, problem.ts.detach() if timed else None)
        self.values = [x.detach() for x in field.used]
        self.y = self.directions.y0
        self.outputs = [self.y]
        self.t = problem.times[0]
        self._carried: dict[Any, Tensor] = {}

    def through(self, step: Accepted) -> None:
        """Go through a step."""
        paths, leaves, treespec = optree.tree_flatten_with_path(step.carry, none_is_leaf=True)
        moving = [k for k, leaf in enumerate(leaves) if flows(leaf)]
        handed_on: list[Any] = []

        def taken(y0: Tensor, carried: list[Tensor], times: list[Tensor], tensors: list[Tensor]) -> Any:
            full = list(leaves)
            for k, leaf in zip(moving, carried, strict=True):
                full[k] = leaf
            y1, carry, states = self._take(step, y0, optree.tree_unflatten(treespec, full), times, tensors)
            found = optree.tree_flatten_with_path(carry, none_is_leaf=True)
            pairs = [(path, leaf) for path, leaf in zip(found[0], found[1], strict=True) if flows(leaf)]
            handed_on[:] = [path for path, _ in pairs]
            return y1, [leaf for _, leaf in pairs], states

        carried = [leaves[k].detach() for k in moving]
        still = (torch.zeros(len(self.directions), *x.shape, dtype=x.dtype, device=x.device) for x in carried)
        tangents = [self._carried.get(paths[k], zero) for k, zero in zip(moving, still, strict=True)]
        self.y, carry, states = self._push(taken, step.y0, self.y, carried, tangents)
        self._carried = dict(zip(handed_on, carry, strict=True))
        self.outputs += states
        self.t = step.t1

    def rest(self) -> None:
        """Go through a span of nothing."""

        def states(y0: Tensor, carried: list[Tensor], times: list[Tensor], tensors: list[Tensor]) -> Any:
            return at_rest(self.field.showing(tensors), y0, self._clock(times))

        self.outputs = list(self._push(states, self.problem.y0, self.y, [], []))
        self.y = self.outputs[-1]

    def _take(self, step: Accepted, y0: Tensor, carry: Any, times: list[Tensor], tensors: list[Tensor]) -> Any:
        """The step again: the state at its end, what is handed on, and the states at output times."""
        solver, clock = self.solver, self._clock(times)
        field = around(self.field.showing(tensors), step.section)
        t0, t1 = clock(step.t0), clock(step.t1)
        if solver.memoryless:
            carry = solver.init(field, t0, y0)
            if all(at_end(clock, slot, step.t1) for slot in step.slots):
                y1 = solver.replay(field, t0, t1, y0, carry)
                return y1, None, [y1] * len(step.slots)
        elif step.fresh:
            carry = solver.init(field, t0, y0, field(t0, y0))
        taken = solver.step(field, t0, t1, y0, carry)
        taken, states = states_in(field, solver, taken, step.t1, clock, step.slots)
        return taken.y1, None if solver.memoryless else taken.carry, states

    def _clock(self, times: list[Tensor]) -> Clock:
        if not self.timed:
            return Clock(self.problem.times)
        first, last, between = times
        return Clock(self.problem.times, torch.cat([first.reshape(1), between, last.reshape(1)]))

    def _push(self, function: Any, y: Tensor, dy: Tensor, carried: list[Tensor], tangents: list[Tensor]) -> Any:
        """The derivatives of what ``function`` gives."""
        times = list(_split(self.problem.ts.detach())) if self.timed else []
        point = y.detach(), carried, times, self.values
        along = dy, tangents, self.directions.times, self.directions.tensors

        def one(*direction: Any) -> Any:
            return torch.func.jvp(function, point, direction)

        size = self.chunk or max(len(dy), 1)
        parts = [
            optree.tree_map(lambda x, k=k: x[k : k + size], cast(Any, along)) for k in range(0, len(dy) or 1, size)
        ]
        try:
            with torch.enable_grad():
                found = [torch.func.vmap(one, out_dims=cast(Any, (None, 0)))(*cast(Any, part)) for part in parts]
        except OdekitError:
            raise
        except RuntimeError as error:
            raise GradientError(
                "gradient='forward' differentiates f in forward mode, in all directions at once (torch.func.jvp and "
                "vmap), which this f does not let it do: f must not call autograd itself, nor autograd functions that "
                f"have no jvp, nor draw random numbers. Use gradient='checkpointed'. PyTorch says: {error}"
            ) from error
        values = [x for x in optree.tree_leaves(found[0][0]) if flows(x)]
        self.dependencies.check_none_missed(values, [], "forward")
        return optree.tree_map(lambda *x: torch.cat(x).detach(), *(derivatives for _, derivatives in found))


@functools.cache
def _load_forward_mode() -> None:
    """What PyTorch loads when forward mode is first used, without the warning about its own code that comes with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.func.jvp(torch.sin, (torch.zeros(()),), (torch.zeros(()),))
