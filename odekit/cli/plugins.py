"""The option ``--plugin FILE.py`` of every command."""

from __future__ import annotations

from pathlib import Path

import click

_FILES = "odekit.plugins"


def plugin_option() -> click.Option:
    """The option ``--plugin``, understood before and after the name of a command, any number of times.

    The files are only noted; a command that needs the catalog loads them with it.
    """
    return click.Option(
        ["--plugin"],
        multiple=True,
        expose_value=False,
        callback=_remember,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE.py",
        help="Load a plugin from one file; may be repeated.",
    )


def plugin_files(context: click.Context | None = None) -> tuple[Path, ...]:
    """The files that were typed for this command so far, in order."""
    return tuple((context or click.get_current_context()).meta.get(_FILES, ()))


def _remember(context: click.Context, _: click.Parameter, files: tuple[Path, ...]) -> None:
    known = context.meta.setdefault(_FILES, [])
    known += [file for file in files if file not in known]
