"""Errors as the command line shows them: one line on stderr, and an exit code.

====  ==============================================
code  meaning
====  ==============================================
0     success
1     an error; the line says what to do
2     the command was typed wrongly
3     the solver gave up
130   stopped with Ctrl-C
====  ==============================================
"""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click

from odekit.errors import OdekitError, SolveError

_DEBUG = "odekit.debug"


class Failure(click.ClickException):
    """An error as the user reads it."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"error: {self.message}", file=file, err=True)


class GaveUp(Failure):
    """The solver did not reach the end."""

    exit_code = 3


class Stopped(Failure):
    """The user did not want to go on."""

    exit_code = 130


def failure(error: BaseException) -> Failure:
    """What the user is told about ``error``."""
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return Stopped("stopped with Ctrl-C")
    if isinstance(error, OdekitError):
        line = " ".join(str(error).split()) or type(error).__name__
        return GaveUp(line) if isinstance(error, SolveError) else Failure(line)
    first = next(iter(str(error).strip().splitlines()), "")
    line = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return Failure(f"{line} (`odekit --debug ...` shows where)")


@contextmanager
def translated() -> Iterator[None]:
    """Turn whatever is raised inside into a :class:`Failure`, with the traceback before it after ``--debug``."""
    try:
        yield
    except (click.ClickException, click.exceptions.Exit):
        raise
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            raise  # click ends quietly when the reader of a pipe has gone
        if click.get_current_context().meta.get(_DEBUG):
            click.echo(traceback.format_exc(), err=True, nl=False)
        raise failure(error) from error


def _remember(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.meta[_DEBUG] = True


def debug_option() -> click.Option:
    """The option ``--debug``, understood before and after the name of a command."""
    return click.Option(
        ["--debug"], is_flag=True, expose_value=False, callback=_remember, help="Show the traceback of an error."
    )
