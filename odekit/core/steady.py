"""The event that a solve has come to rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import optree
import torch
from torch import Tensor

from odekit.core.events import Event
from odekit.core.tolerance import default_tolerances
from odekit.errors import InputError

_WIDER = 10.0
"""By how much the tolerances for rest are wider than those of a solve, where the caller names neither."""


def steady_state(f: Callable[..., Any], *, rtol: float | None = None, atol: float | None = None) -> Event:
    """An event that ends a solve where dy/dt is next to nothing: ‖f / (atol + rtol |y|)‖ <= 1 in root mean square.

    The state then changes by less than the tolerance in a unit of time. With ``gradient="implicit"`` a solve becomes a
    layer whose output is an equilibrium of f: ``solve(f, y0, [0.0, math.inf], events=steady_state(f),
    gradient="implicit")``. A solve that starts at rest ends in its first step. Steps that leave more noise in f than
    the tolerance never come to rest; then loosen it, tighten the solve's own, or take a stiff solver. With
    ``batch="rows"`` every row comes to rest by itself.

    The time at which that happens is held still by all gradients. The event's own calls of f come on top of those that
    the solve counts.

    Args:
        f: the vector field of the solve; gets what the solve passes to it, ``args`` included.
        rtol, atol: by default ten times what an adaptive solve aims at for states of the same dtype.

    Raises:
        InputError: f is not callable, or a tolerance is no number >= 0.
    """
    if not callable(f):
        raise InputError(f"steady_state({f!r:.60}): expected the vector field, a callable f(t, y, *args)")
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0):
            raise InputError(f"steady_state({name}={value!r}): expected a number >= 0, such as 1e-6")
    if rtol == 0 and atol == 0:
        raise InputError("steady_state(rtol=0, atol=0) would never happen; give at least one of them")
    return SteadyState(_Restless(f, rtol, atol), direction=-1)


@attrs.frozen(eq=False)
class SteadyState(Event):
    """An event that has happened already where a solve starts at rest."""

    at_start = True


@attrs.frozen(eq=False)
class _Restless:
    """By how much dy/dt exceeds its tolerance: one number, or one a row where rows have times of their own."""

    f: Callable[..., Any]
    rtol: float | None
    atol: float | None

    def __call__(self, t: Tensor, y: Any, *args: Any) -> Tensor:
        with torch.no_grad():
            slopes = optree.tree_leaves(self.f(t, y, *args))
            states = optree.tree_leaves(y)
            usual = default_tolerances(states[0].dtype, adaptive=True)
            rtol = _WIDER * usual[0] if self.rtol is None else self.rtol
            atol = _WIDER * usual[1] if self.atol is None else self.atol
            shape = (-1,) if t.ndim == 0 else (len(t), -1)
            parts = [
                (slope.abs() / (atol + rtol * state.abs())).square().reshape(shape)
                for slope, state in zip(slopes, states, strict=True)
            ]
            return torch.cat(parts, -1).mean(-1).sqrt() - 1
