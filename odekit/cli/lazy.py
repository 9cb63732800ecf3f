"""A click group that imports a command when it is called, and nothing to show its help."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import attrs
import click

from odekit.cli.errors import debug_option, translated
from odekit.cli.plugins import plugin_option
from odekit.errors import nearest


@attrs.frozen
class LazyCommand:
    """Where a command lives (``module:attribute``), and its line in the help of the group.

    It has the options that every command has.
    """

    home: str
    help: str

    def load(self) -> click.Command:
        """The command, with the options of every command."""
        module, _, attribute = self.home.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        known = {parameter.name for parameter in command.params}
        command.params += [option for option in (plugin_option(), debug_option()) if option.name not in known]
        return command


class LazyGroup(click.Group):
    """A group over a table of :class:`LazyCommand`; errors of its commands become one line and an exit code."""

    def __init__(self, *args: Any, lazy: Mapping[str, LazyCommand], **options: Any) -> None:
        super().__init__(*args, **options)
        self.params += [plugin_option(), debug_option()]
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self.lazy[cmd_name].load() if cmd_name in self.lazy else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.lazy and not args[0].startswith("-"):
            ctx.fail(f"no command is called {args[0]!r}. {nearest(args[0], self.lazy)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in self.lazy.items()])

    def invoke(self, ctx: click.Context) -> Any:
        with translated():
            return super().invoke(ctx)
