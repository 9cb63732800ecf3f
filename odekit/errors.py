"""Every error a user of odekit can meet, in one family.

Catch :class:`OdekitError` for all of them. Each message says what came, what was expected and what to type instead.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from odekit.core.rows.answer import RowStatus
    from odekit.core.solution import Solution, Status


class OdekitError(Exception):
    """The root of odekit's errors."""


class InputError(OdekitError, ValueError):
    """An argument has a wrong value, shape, dtype or device."""


class OptionError(InputError, TypeError):
    """An option is unknown, or does not go together with another one."""


class NameNotFound(InputError, LookupError):
    """No registered thing has this name."""


class DynamicsError(InputError):
    """The vector field returned something that is not dy/dt."""


class TableauError(InputError):
    """A Butcher tableau contradicts itself or the order that its method claims."""


class GradientError(OdekitError, RuntimeError):
    """A gradient was asked for that would be missing or wrong."""


class DeviceError(OdekitError, RuntimeError):
    """A device was asked for that this machine does not have."""


class DataError(OdekitError, RuntimeError):
    """A dataset's files are missing, damaged, or not what they should be."""


class PluginError(OdekitError, RuntimeError):
    """A plugin could not be loaded or registered."""


class RunError(OdekitError, RuntimeError):
    """A run folder or a training run is in a state that cannot go on."""


class SolveError(OdekitError, RuntimeError):
    """The solver gave up before the last output time.

    Attributes:
        status: why (a :class:`~odekit.core.solution.Status`; one for every row with ``batch="rows"``).
        solution: what was reached, as ``throw=False`` would have returned it.
    """

    def __init__(self, message: str, status: Status | RowStatus, solution: Solution | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.solution = solution


class AdjointDriftWarning(UserWarning):
    """The backward solve of the adjoint method lost the forward trajectory; its gradient is not to be trusted."""


class CompileWarning(UserWarning):
    """A step could not be compiled, and is taken without."""


class ReversalDriftWarning(UserWarning):
    """Steps taken back lost the forward trajectory to rounding; the reversible gradient is not to be trusted."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint to end an error message with: the closest known name if there is one, then all that is known."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(known) if known else '(none)'}."
