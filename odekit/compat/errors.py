"""odekit's errors under the types that programs written for torchdiffeq catch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from odekit.core.solution import Status
from odekit.errors import DynamicsError, InputError, SolveError


class ArgumentError(InputError, TypeError, AssertionError):
    """An argument is not what torchdiffeq's interface takes; it would raise one of these types, depending on which."""


class IntegrationError(SolveError, AssertionError):
    """The solve failed. An AssertionError too, because that is what torchdiffeq raises."""


_THEIR_WORDS = {
    Status.STEP_UNDERFLOW: "underflow in dt: ",
    Status.NON_FINITE: "non-finite values in state `y`: ",
    Status.MAX_STEPS: "max_num_steps exceeded: ",
}


@contextlib.contextmanager
def as_assertions() -> Iterator[None]:
    """Turns odekit's errors into those above; the message of a failed solve begins with torchdiffeq's words."""
    try:
        yield
    except (ArgumentError, DynamicsError, IntegrationError):
        raise
    except InputError as error:
        raise ArgumentError(str(error)) from error
    except SolveError as error:
        words = next((words for status, words in _THEIR_WORDS.items() if error.status is status), "")
        raise IntegrationError(f"{words}{error}", error.status, error.solution) from error
