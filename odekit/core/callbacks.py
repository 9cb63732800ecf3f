"""Hooks into the loop: told of every step as it is tried, accepted or rejected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from odekit.errors import InputError

Hook = Callable[[float, float, Any], Any]


def _is_hook(instance: Any, attribute: Any, value: Any) -> None:
    if value is not None and not callable(value):
        raise InputError(f"callback {attribute.name}={value!r:.60}: expected a callable (t0, t1, y0)")


@attrs.frozen(eq=False)
class Callbacks:
    """What to call as a solve proceeds; what the hooks return is ignored, what they raise ends the solve.

    Each gets ``(t0, t1, y0)``: the host times between which the step goes, and the state at its start. With
    ``batch="rows"`` they are called once for all rows that take part in an iteration, with float64 arrays ``[B]`` as
    times and the states of all rows; rows that a call is not about have the same time twice.

    Attributes:
        attempt: before a step is computed.
        accept: when it counts.
        reject: when it does not.
        reached: ``reached(t, y)`` after every accepted step, with the time and the state at its end.
    """

    attempt: Hook | None = attrs.field(default=None, validator=_is_hook)
    accept: Hook | None = attrs.field(default=None, validator=_is_hook)
    reject: Hook | None = attrs.field(default=None, validator=_is_hook)
    reached: Callable[[float, Any], Any] | None = attrs.field(default=None, validator=_is_hook)

    @property
    def silent(self) -> bool:
        """Whether there is nothing to call."""
        return all(hook is None for hook in (self.attempt, self.accept, self.reject, self.reached))

    def on_packed(self, unpack: Callable[[Any], Any]) -> Callbacks:
        """The same hooks for packed states."""

        def opened(hook: Hook | None) -> Hook | None:
            return None if hook is None else lambda t0, t1, y0: hook(t0, t1, unpack(y0))

        reached = self.reached
        return Callbacks(
            opened(self.attempt),
            opened(self.accept),
            opened(self.reject),
            None if reached is None else lambda t, y: reached(t, unpack(y)),
        )


def resolve_callbacks(callback: Any) -> Callbacks:
    """The hooks that a caller gave: none, a :class:`Callbacks`, or a function ``(t, y)`` for accepted steps."""
    if callback is None:
        return Callbacks()
    if isinstance(callback, Callbacks):
        return callback
    if not callable(callback):
        raise InputError(
            f"callback is a {type(callback).__name__}; expected a function (t, y), called after every accepted step, "
            "or an odekit.Callbacks"
        )
    return Callbacks(reached=callback)
