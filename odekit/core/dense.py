"""The answer at any time: accepted steps, kept for the dense output of the solver."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar, cast

import attrs
import numpy as np
import optree
import torch
from torch import Tensor

from odekit.core import lanes
from odekit.core.protocols import ODESolver, Step, VectorField
from odekit.core.state import Layout
from odekit.errors import GradientError, InputError


@attrs.define(eq=False)
class Kept:
    """An accepted step between host times, with what it needs to be densified."""

    t0: float
    t1: float
    step: Step
    f: VectorField
    solver: ODESolver
    dense: bool

    def densified(self) -> Step:
        """The step, ready to be interpolated; made so when first asked for."""
        if not self.dense:
            self.step, self.dense = self.solver.densify(self.f, self.step), True
        return self.step


class HasStep(Protocol):
    """What a recorder keeps."""

    step: Step


K = TypeVar("K", bound=HasStep)


class Recorder(Generic[K]):
    """Keeps accepted steps.

    Args:
        limit: bytes that may be kept; beyond them everything is dropped. None for no limit.

    Attributes:
        steps: what is kept.
        dropped: whether there was too much.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.size = 0
        self.steps: list[K] = []
        self.dropped = False

    def add(self, kept: K) -> None:
        """Keep one more step."""
        if self.dropped:
            return
        self.steps.append(kept)
        if self.limit is None:
            return
        if len(self.steps) % 16 == 1:  # steps are alike: one in sixteen is measured
            each = _bytes(kept.step)
            self.size += 16 * each
            if self.size > self.limit + 15 * each:
                self.steps.clear()
                self.dropped = True


def _bytes(step: Step) -> int:
    leaves: list[Any] = optree.tree_leaves(cast(Any, (step.y0, step.dense)), none_is_leaf=True)
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves if isinstance(leaf, Tensor))


@attrs.frozen(eq=False)
class DenseOutput:
    """The piecewise interpolant of a solve.

    Attributes:
        steps: in the order of the solve. After a state jump two of them meet in one time with different states; the
            earlier one, from before the jump, answers there.
        t1: where the solve ended; an event may have done that inside the last step.
        layout: how states are packed.
        detached: whether gradients do not flow through it although the answer has some.
    """

    steps: Sequence[Kept]
    t1: float
    layout: Layout
    detached: bool = False

    def __call__(self, t: Any, derivative: bool = False) -> Any:
        """The state (or dy/dt) at ``t``: a number, or numbers ``[K]``, for which a leading axis ``K`` is put in front.

        Raises:
            InputError: a time lies outside what was solved.
        """
        packed = self.packed(t, derivative)
        return self.layout.unpack(without_gradient(packed) if self.detached else packed)

    def packed(self, t: Any, derivative: bool = False) -> Tensor:
        """The same on packed states."""
        like, start = self.steps[0].step.y0, self.steps[0].step.t0
        if isinstance(start, Tensor):
            lanes.same(start, "the times between which there is something to interpolate")
        if isinstance(t, Tensor):
            exact = lanes.same(t, "times to interpolate at").reshape(-1).tolist()
        else:
            exact = np.asarray(t, dtype=float).ravel().tolist()
        hosts = [float(value) for value in exact]
        t = t if isinstance(t, Tensor) else torch.tensor(t, dtype=like.real.dtype)
        places = [self._place(value) for value in hosts]
        parts: list[Tensor] = [like.new_empty((0, *like.shape))]
        order: list[int] = []
        for place in sorted(set(places)):
            chosen = [k for k, p in enumerate(places) if p == place]
            order += chosen
            parts.append(self._within(self.steps[place], t.reshape(-1), hosts, chosen, like, derivative))
        back = sorted(range(len(order)), key=order.__getitem__)
        return torch.cat(parts)[back].reshape(*t.shape, *like.shape)

    def _within(
        self, kept: Kept, t: Tensor, hosts: Sequence[float], chosen: list[int], like: Tensor, derivative: bool
    ) -> Tensor:
        step = kept.densified()
        find: Callable[..., Tensor] = kept.solver.derivative if derivative else kept.solver.interpolate
        if lanes.differentiated(t) or isinstance(step.t0, Tensor):
            at = t[chosen].to(like.device)
            theta = ((at - step.t0) / (step.t1 - step.t0)).to(like.real.dtype)
        else:
            span = kept.t1 - kept.t0
            theta = torch.tensor(
                [(hosts[k] - kept.t0) / span for k in chosen], dtype=like.real.dtype, device=like.device
            )
        theta = theta.reshape(-1, *(1,) * like.ndim)
        found = find(step, theta)
        return found.expand(len(chosen), *like.shape)

    def _place(self, t: float) -> int:
        first, last = self.steps[0].t0, self.t1
        slack = 4 * math.ulp(max(abs(first), abs(last)))
        if not min(first, last) - slack <= t <= max(first, last) + slack:
            raise InputError(f"t = {t:g} lies outside what was solved, from {first:g} to {last:g}")
        sign = math.copysign(1.0, last - first)
        starts = [kept.t0 * sign for kept in self.steps]
        return max(bisect.bisect_left(starts, t * sign) - 1, 0)


def without_gradient(x: Tensor) -> Tensor:
    """The values of ``x``; asking for their gradient is an error."""
    if not torch.is_grad_enabled():
        return x
    found: Tensor = _NoGradient.apply(x, torch.zeros((), dtype=x.dtype, device=x.device, requires_grad=True))
    return found


class _NoGradient(torch.autograd.Function):
    """The values, with a gradient that is an error instead of silently missing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None]:
        raise GradientError(
            "interpolate() has gradients with gradient='direct' only; put the times into t= "
            "(outputs never cut steps), or solve with gradient='direct'"
        )
