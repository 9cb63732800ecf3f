"""Writes docs/commands.md from the help of every command: ``python docs/scripts/commands.py``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
from click.testing import CliRunner

from odekit.cli.main import main

PAGE = Path(__file__).parents[1] / "commands.md"
_WIDTH = 100


def commands(command: click.Command = main, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command as the words behind ``odekit``, the command itself first."""
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None:
                yield from commands(below, (*path, name))


def page() -> str:
    """The page as it should read."""
    parts = ["# Commands\n\nThe help of every command, written by `python docs/scripts/commands.py`.\n"]
    for path in commands():
        asked = CliRunner().invoke(main, [*path, "--help"], prog_name="odekit", terminal_width=_WIDTH)
        if asked.exit_code:
            raise RuntimeError(f"odekit {' '.join(path)} --help: {asked.output}")
        parts.append(f"## {' '.join(('odekit', *path))}\n\n```text\n{asked.output.strip()}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
