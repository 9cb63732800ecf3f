"""Initial value problems whose solutions are known in closed form, one for each structure of a right-hand side.

All are made to measure: with a curve Y(t) chosen first, dy/dt = Y'(t) + G(y) - G(Y(t)) has it as its solution, whatever
G is. G is a small network without symmetries, so that every elementary differential of f is there and none is a
multiple of another: a method that misses one order condition shows it.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import torch
from torch import Tensor

DOUBLE = torch.float64
SPAN = (0.2, 1.7)


def _rows(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=DOUBLE)


_INNER = _rows([0.9, -0.4, 0.3], [0.5, 0.8, -0.6], [-0.3, 0.7, 0.6])
_OUTER = _rows([-0.8, 0.5, 0.2], [-0.4, -0.7, 0.6], [0.3, -0.5, -0.9])
_AMPLITUDE, _RATE, _PHASE = _rows([0.9, 0.7, 0.8], [1.3, 0.9, 1.7], [0.4, 1.2, -0.5])
LINEAR = _rows([-2.0, 0.6, 0.1], [0.3, -1.5, 0.4], [-0.2, 0.5, -2.5])
"""The linear part of semilinear problems."""


@attrs.frozen(eq=False)
class Problem:
    """dy/dt = f(t, y), for states ``[..., n]``.

    Attributes:
        structure: as that of a solver.
        exact: the solution at a time.
        linear: the linear part of f, ``[n, n]``, where the structure has one.
    """

    name: str
    structure: str
    f: Callable[[Tensor, Tensor], Tensor]
    exact: Callable[[float], Tensor]
    linear: Tensor | None = None


def curve(t: Tensor) -> tuple[Tensor, Tensor]:
    """Y(t) and Y'(t), ``[3]``."""
    amplitude, rate, angle = (x.to(t.dtype) for x in (_AMPLITUDE, _RATE, _PHASE))
    angle = angle + rate * t
    return amplitude * torch.sin(angle), amplitude * rate * torch.cos(angle)


def network(y: Tensor, outer: Tensor = _OUTER) -> Tensor:
    """G, with derivatives of all orders and products of components at each of them."""
    hidden = torch.tanh(y @ _INNER.to(y.dtype))
    return (hidden + 0.3 * hidden.square()) @ outer.to(y.dtype)


def _general(t: Tensor, y: Tensor) -> Tensor:
    here, slope = curve(t)
    return slope + network(y) - network(here)


def _semilinear(t: Tensor, y: Tensor) -> Tensor:
    here, slope = curve(t)
    return slope + (y - here) @ LINEAR.mT.to(y.dtype) + network(y) - network(here)


def _separable(t: Tensor, y: Tensor) -> Tensor:
    """q follows Y(t), p follows Y(t + 1)."""
    q, p = y.chunk(2, -1)
    (at_q, slope_q), (at_p, slope_p) = curve(t), curve(t + 1)
    return torch.cat([slope_q + network(p) - network(at_p), slope_p + network(q, _INNER) - network(at_q, _INNER)], -1)


def _exact(t: float) -> Tensor:
    return curve(torch.tensor(t, dtype=DOUBLE))[0]


def _exact_pair(t: float) -> Tensor:
    return torch.cat([_exact(t), _exact(t + 1)])


def _told_by_the_state(f: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """The same problem made autonomous: its last component is the time."""

    def autonomous(t: Tensor, y: Tensor) -> Tensor:
        return torch.cat([f(y[..., -1:], y[..., :-1]), torch.ones_like(y[..., -1:])], -1)

    return autonomous


def _told_twice(t: Tensor, y: Tensor) -> Tensor:
    """The separable problem made autonomous: either half has the time as its last component, for the other one."""
    q, p = y.chunk(2, -1)
    clock_of_q, clock_of_p = q[..., -1:], p[..., -1:]
    one = torch.ones_like(clock_of_q)
    dq = curve(clock_of_p)[1] + network(p[..., :-1]) - network(curve(clock_of_p + 1)[0])
    dp = curve(clock_of_q + 1)[1] + network(q[..., :-1], _INNER) - network(curve(clock_of_q)[0], _INNER)
    return torch.cat([dq, one, dp, one], -1)


def _with_time(exact: Callable[[float], Tensor]) -> Callable[[float], Tensor]:
    return lambda t: torch.cat([exact(t), torch.tensor([t], dtype=DOUBLE)])


def _with_time_twice(t: float) -> Tensor:
    time = torch.tensor([t], dtype=DOUBLE)
    return torch.cat([_exact(t), time, _exact(t + 1), time])


_PADDED = torch.nn.functional.pad(LINEAR, (0, 1, 0, 1))

AUTONOMOUS = {
    "general": Problem("autonomous", "general", _told_by_the_state(_general), _with_time(_exact)),
    "semilinear": Problem("autonomous", "semilinear", _told_by_the_state(_semilinear), _with_time(_exact), _PADDED),
    "separable": Problem("autonomous", "separable", _told_twice, _with_time_twice),
}
TIMED = {
    "general": Problem("time-dependent", "general", _general, _exact),
    "semilinear": Problem("time-dependent", "semilinear", _semilinear, _exact, LINEAR),
    "separable": Problem("time-dependent", "separable", _separable, _exact_pair),
}
"""By the structure of the right-hand side."""
