"""Explicit symplectic methods for separable systems: leapfrog steps of several sizes, one after the other."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import torch
from torch import Tensor

from odekit.core import lanes
from odekit.core.protocols import ODESolver, Step, VectorField
from odekit.core.runge_kutta import combine, stage_times
from odekit.core.times import Time
from odekit.core.tolerance import largest
from odekit.errors import InputError, TableauError


class Composition(ODESolver):
    """Leapfrog substeps whose sizes, as fractions of the step, are a subclass's ``fractions``.

    For dq/dt = v(t, p), dp/dt = a(t, q), such as Hamilton's equations of H = T(p) + V(q). The state is a pair (q, p) of
    tensors of equal shape, or one tensor whose last axis is [q | p]. A substep of size h from t is

        p½ = p + h/2 a(t, q),  q' = q + h v(t + h/2, p½),  p' = p½ + h/2 a(t + h, q').

    Time advances with the variable that it stands beside, which makes this a splitting of the time-dependent system
    too. Steps are symplectic and symmetric: the energy's error stays bounded, and a step back undoes a step. They are
    not adaptive, for that would undo it. Two calls of f a substep, and one before the first, which alone is also where
    f is tested for being separable. Hairer, Lubich & Wanner, *Geometric numerical integration*, II.4 and V.3.

    Where substeps leave the step, f is asked beyond its ends. Where that would be beyond the span or a discontinuity of
    f, as in the first and the last step, a step of ``inner`` is taken instead.

    Class attributes:
        fractions: the substeps' sizes, a palindrome that sums to 1.
        inner: a composition of the same order whose substeps stay inside the step; None where they do so themselves.
        nodes: the times in a step at which f is asked, made of the fractions.

    Raises:
        TableauError: at class creation, if the fractions are no palindrome or do not sum to 1, or if they leave the
            step and ``inner`` is not what it should be.
        InputError: the last axis of the state cannot be halved, or f is not separable.
    """

    fractions: ClassVar[tuple[float, ...]]
    inner: ClassVar[type[Composition] | None] = None
    nodes: ClassVar[tuple[float, ...]]

    structure = "separable"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "fractions" not in cls.__dict__:
            return
        if cls.fractions != cls.fractions[::-1] or abs(sum(cls.fractions) - 1) > 1e-12:
            raise TableauError(f"{cls.__name__}.fractions = {cls.fractions}: expected a palindrome that sums to 1")
        ends = [*itertools.accumulate(cls.fractions[:-1]), 1.0]
        starts = [0.0, *ends]
        cls.nodes = tuple(x for start, end in zip(starts, ends, strict=False) for x in ((start + end) / 2, end))
        if not cls._stays_inside() and not (cls.inner and cls.inner.order == cls.order and cls.inner._stays_inside()):
            raise TableauError(
                f"{cls.__name__}: substeps reach from {min(cls.nodes):.3g} to {max(cls.nodes):.3g} steps; for where "
                "that is outside the span, add `inner = ...`, a composition of the same order that stays in [0, 1]"
            )

    @classmethod
    def _stays_inside(cls) -> bool:
        return min(cls.nodes) >= 0 and max(cls.nodes) <= 1

    def init(self, f: VectorField, t0: Time, y0: Tensor, f0: Tensor | None = None) -> Tensor:
        """a(t0, q0), after a look at whether this method is for this f."""
        _check_halves(self.name, y0)
        f0 = f(t0, y0) if f0 is None else f0
        _check_separable(self.name, f, t0, y0, f0)
        return f0.chunk(2, -1)[1]

    def step(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Tensor) -> Step:
        dt, force = t1 - t0, carry
        if self.inner is not None and not all(f.inside(t0 + x * dt) for x in (min(self.nodes), max(self.nodes))):
            return self.inner().step(f, t0, t1, y0, carry)
        q, p = y0.chunk(2, -1)
        times = stage_times(f, self.nodes, t0, t1)
        for i, fraction in enumerate(self.fractions):
            p = combine(p, dt, [fraction / 2], [force])
            velocity = f(times[2 * i], torch.cat([q, p], -1)).chunk(2, -1)[0]
            q = combine(q, dt, [fraction], [velocity])
            force = f(times[2 * i + 1], torch.cat([q, p], -1)).chunk(2, -1)[1]
            p = combine(p, dt, [fraction / 2], [force])
        return Step(t0, t1, y0, torch.cat([q, p], -1), carry=force)


def _check_halves(name: str, y0: Tensor) -> None:
    if y0.ndim == 0 or y0.shape[-1] % 2:
        size = "no axis at all" if y0.ndim == 0 else f"{y0.shape[-1]} entries along its last axis"
        raise InputError(
            f"solver {name!r} splits the state into positions and momenta, [q | p], but it has {size}; give y0 as a "
            "pair (q, p) of tensors of equal shape, or as one tensor whose last axis can be halved"
        )


def _check_separable(name: str, f: VectorField, t0: Time, y0: Tensor, f0: Tensor) -> None:
    """Raise InputError unless each half of f stays as it is when the other half of the state moves."""
    with torch.no_grad():
        q, p = y0.detach().chunk(2, -1)
        velocity, force = f0.detach().chunk(2, -1)
        other_velocity = f(t0, torch.cat([_moved(q), p], -1)).chunk(2, -1)[0]
        other_force = f(t0, torch.cat([q, _moved(p)], -1)).chunk(2, -1)[1]
        if not (_same(velocity, other_velocity) and _same(force, other_force)):
            raise InputError(
                f"solver {name!r} is for separable systems, dq/dt = v(t, p), dp/dt = a(t, q), of the state [q | p], "
                "but here dq/dt changes with q, or dp/dt with p. Use a solver for general systems, such as 'dopri5'"
            )


def _moved(x: Tensor) -> Tensor:
    return x + 0.1 * (1 + x.abs())


def _same(x: Tensor, y: Tensor) -> bool:
    return lanes.everywhere(~(largest(x - y) > torch.finfo(x.dtype).eps ** 0.5 * largest(x)))
