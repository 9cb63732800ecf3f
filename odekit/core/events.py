"""Events: where a function of time and state crosses zero on the way, and what happens there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import attrs
import numpy as np
import torch
from torch import Tensor

from odekit.core import lanes
from odekit.core.first_only import first_only
from odekit.core.protocols import ODESolver, Step, VectorField
from odekit.core.roots import bracketed_roots
from odekit.core.state import Layout
from odekit.errors import GradientError, InputError, OptionError

SAMPLES = (0.25, 0.5, 0.75, 1.0)
"""Where in a step an event function is looked at, so that a pair of crossings inside one step is seen."""

SECOND = (
    "the time of an event cannot be differentiated twice: its gradient comes from the implicit function theorem, "
    "which is applied once"
)


def _is_callable(instance: Any, attribute: Any, value: Any) -> None:
    if not callable(value):
        raise InputError(f"event {attribute.name}={value!r:.60}: expected a callable (t, y, *args)")


def _is_direction(instance: Any, attribute: Any, value: Any) -> None:
    if isinstance(value, bool) or value not in (-1, 0, 1):
        raise InputError(f"event direction={value!r}: expected 1 (rising), -1 (falling) or 0 (both)")


@attrs.frozen(eq=False)
class Event:
    """Something that happens where ``fn(t, y, *args)`` crosses zero.

    The crossing is found on the dense output to the last digits of time. Its time and state can be differentiated with
    respect to whatever y and ``fn`` depend on, by the implicit function theorem: from g(t*, y(t*; θ), φ) = 0 follows
    dt* = -(g_y dy + g_φ dφ) / (g_t + g_y ẏ). A solve that starts on the surface g = 0 does not take its start for a
    crossing.

    Attributes:
        fn: gets the time as a 0-d tensor, the state nested as ``y0``, and the ``args`` of the solve; returns a real
            0-d tensor (with ``batch="rows"`` one number a row, ``[B]``). May be an ``nn.Module``.
        terminal: whether the first crossing ends the solve. True by default, except where there is a ``jump``.
        direction: 1 for crossings from below to above zero as the solve proceeds, -1 for those from above, 0 for both.
        jump: ``jump(t, y, *args)`` gives the state with which the solve goes on after the event, nested as ``y0``;
            for a bouncing ball ``lambda t, y: torch.stack([y[0], -0.9 * y[1]])``.

    Class attributes:
        at_start: whether a solve that starts below zero has thereby crossed it, from above.
    """

    at_start: ClassVar[bool] = False

    fn: Callable[..., Any] = attrs.field(validator=_is_callable)
    terminal: bool | None = None
    direction: int = attrs.field(default=0, validator=_is_direction)
    jump: Callable[..., Any] | None = attrs.field(default=None, validator=attrs.validators.optional(_is_callable))

    def __attrs_post_init__(self) -> None:
        if self.jump is not None and self.terminal:
            raise OptionError("an event with a jump goes on after it; leave out terminal=True, or the jump")

    @property
    def ends(self) -> bool:
        """Whether a crossing ends the solve."""
        return self.jump is None and self.terminal is not False

    @property
    def stops(self) -> bool:
        """Whether a crossing ends the stretch that is integrated in one go."""
        return self.jump is not None or self.ends


def resolve_events(events: Any) -> tuple[Event, ...]:
    """The events that a caller gave: none, one, or several, each an :class:`Event` or a bare function (terminal)."""
    if events is None:
        return ()
    if isinstance(events, Event) or callable(events):
        events = (events,)
    if not isinstance(events, Iterable):
        raise InputError(f"events is a {type(events).__name__}; expected an odekit.Event, or a sequence of them")
    return tuple(event if isinstance(event, Event) else Event(event) for event in events)


@attrs.frozen(eq=False)
class Watch:
    """An event as the loop sees it: on packed states."""

    event: Event
    layout: Layout
    args: tuple[Any, ...]

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """g(t, y), a real 0-d tensor."""
        value = self.event.fn(t, self.layout.unpack(y), *self.args)
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.is_floating_point():
            what = f"a {value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise InputError(
                f"an event function returned {what:.80}; expected a real tensor with one number, which crosses zero "
                'where the event happens (for one number a row, solve with batch="rows")'
            )
        return value.reshape(())

    def jumped(self, t: Tensor, y: Tensor) -> Tensor:
        """The packed state after the event."""
        assert self.event.jump is not None
        after = self.layout.pack(self.event.jump(t, self.layout.unpack(y), *self.args), "what the jump returned")
        if after.dtype != y.dtype or after.device != y.device:
            raise InputError(
                f"the jump returned {after.dtype} on {after.device}; y is {y.dtype} on {y.device}, and so must it be"
            )
        return after


@attrs.frozen(eq=False)
class Hit:
    """A crossing inside a step: which event, when, where in the step, and dy/dt there."""

    event: int
    t: float
    theta: float
    slope: Tensor


class Monitor:
    """Looks for crossings in one accepted step after the other.

    Args:
        watches: the events.
        fired: the event in whose surface the solve starts, because it has just happened there.
    """

    def __init__(self, watches: Sequence[Watch], fired: int | None = None) -> None:
        self.watches = watches
        self.fired = fired
        self.signs: list[float] = []

    def inspect(self, f: VectorField, solver: ODESolver, step: Step, t0: float, t1: float) -> list[Hit]:
        """The crossings in a densified step, in order, none of them after the first one that stops."""
        with torch.no_grad():
            if not self.signs:
                self.signs = [self._first_sign(k, f, solver, step, t0, t1) for k in range(len(self.watches))]
            hits = [hit for k in range(len(self.watches)) for hit in self._crossings(k, f, solver, step, t0, t1)]
        hits.sort(key=lambda hit: hit.theta)
        for n, hit in enumerate(hits):
            if self.watches[hit.event].event.stops:
                return hits[: n + 1]
        return hits

    def _value(self, k: int, f: VectorField, solver: ODESolver, step: Step, t: float, theta: float) -> float:
        y = step.y0 if theta == 0 else step.y1 if theta == 1 else solver.interpolate(step, theta)
        value = _read(self.watches[k](f.times((t,))[0], y))
        if math.isnan(value):
            raise InputError(f"an event function returned NaN at t = {t:g}")
        return value

    def _first_sign(self, k: int, f: VectorField, solver: ODESolver, step: Step, t0: float, t1: float) -> float:
        """The side on which the solve starts; for a start on the surface, the side to which it leaves."""
        if self.watches[k].event.at_start:
            return 1.0
        value = self._value(k, f, solver, step, t0, 0.0)
        rate = _read(rate_of(self.watches[k], f.times((t0,))[0], step.y0, solver.derivative(step, 0.0))) * (t1 - t0)
        eps = torch.finfo(step.y0.dtype).eps
        resolution = 1e3 * eps * max(1.0, abs(t0 / (t1 - t0)))
        if self.fired == k:  # unless its jump has left the surface
            resolution = max(resolution, eps**0.25)
        if value == 0 or abs(value) <= resolution * abs(rate) or (self.fired == k and rate == 0):
            value = rate or self._value(k, f, solver, step, t0 + 1e-3 * (t1 - t0), 1e-3)
        return math.copysign(1.0, value) if value else 0.0

    def _crossings(self, k: int, f: VectorField, solver: ODESolver, step: Step, t0: float, t1: float) -> list[Hit]:
        sign, begin, wanted, hits = self.signs[k], 0.0, self.watches[k].event.direction, []
        span = t1 - t0

        def g(theta: np.ndarray) -> np.ndarray:
            at = float(theta[0])
            return np.array([self._value(k, f, solver, step, t1 if at == 1 else t0 + at * span, at)])

        for end in SAMPLES:
            value = float(g(np.array([end]))[0])
            now = math.copysign(1.0, value) if value else -sign
            if sign and now != sign and (not wanted or wanted == now):
                xtol = max(4 * math.ulp(max(abs(t0), abs(t1))) / abs(span), 4 * math.ulp(1.0))
                low, high = np.array([begin]), np.array([end])
                g_low = g(low)
                if g_low[0] * sign <= 0:  # on the surface, or at a sample that is a root
                    g_low = np.array([sign * (abs(value) or 1.0)])
                theta = float(bracketed_roots(g, low, high, g_low, np.array([value]), xtol)[0])
                slope = solver.derivative(step, theta).detach()
                hits.append(Hit(k, t1 if theta == 1 else t0 + theta * span, theta, slope))
            sign, begin = now or sign, end
        self.signs[k] = sign
        return hits


def _read(value: Tensor) -> float:
    return float(lanes.same(value, "when an event happens"))


def rate_of(watch: Watch, t: Tensor, y: Tensor, slope: Tensor) -> Tensor:
    """dg/dt along a path through ``(t, y)`` with this slope, detached."""
    if lanes.transformed():
        by_t, by_y = torch.func.grad(watch, (0, 1))(t.detach(), y.detach())
        return (by_t + (by_y.conj() * slope).real.sum()).detach()
    with torch.enable_grad():
        t, y = t.detach().requires_grad_(), y.detach().requires_grad_()
        value = watch(t, y)
        if not value.requires_grad:
            return torch.zeros_like(value)
        by_t, by_y = torch.autograd.grad(value, [t, y], allow_unused=True)
    rate = torch.zeros_like(value.detach())
    if by_t is not None:
        rate = rate + by_t
    return rate if by_y is None else rate + (by_y.conj() * slope).real.sum()


def located(watch: Watch, t: Tensor, y: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Time and state of a crossing, with the gradients that the implicit function theorem gives them.

    Args:
        t: the time, 0-d; its own gradient, if any, is that with which ``y`` was taken.
        y: the packed state at that time.
        slope: dy/dt there, detached.

    Raises:
        GradientError: g is flat there, so that the time has no derivative.
    """
    with torch.enable_grad():
        value = watch(t.to(y.real.dtype), y)
    if not (torch.is_grad_enabled() and lanes.differentiated(value)):
        return t, y
    rate = rate_of(watch, t.to(y.real.dtype), y, slope)
    if not _read(rate):
        raise GradientError(
            "an event function is flat where it crosses zero, so that the time of the event has no derivative"
        )
    value = first_only(value, SECOND)
    shift = (value.detach() - value) / rate
    return t + shift.to(t.dtype), y + slope * shift
