"""``odekit list``: everything that is registered, and where it came from."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import attrs
import click
from click.shell_completion import CompletionItem

from odekit.cli.problems import announced_catalog, command_catalog
from odekit.errors import nearest
from odekit.registry import KINDS, Catalog, Entry, Plugin

PLUGINS = "plugins"

_PLURALS = {kind: kind if kind == "dynamics" else f"{kind}s" for kind in KINDS}
_ALIASES = {PLUGINS: PLUGINS, "plugin": PLUGINS, **{name: k for k, s in _PLURALS.items() for name in (k, s)}}


class KindType(click.ParamType):
    """A kind in the singular or plural, or ``plugins``."""

    name = "kind"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value in _ALIASES:
            return _ALIASES[value]
        return self.fail(f"{value!r} is not a kind. {nearest(value, (*_PLURALS.values(), PLUGINS))}", param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(kind) for kind in (*_PLURALS.values(), PLUGINS) if kind.startswith(incomplete)]


@click.command("list")
@click.argument("kind", required=False, type=KindType())
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object to stdout.")
def list_command(kind: str | None, as_json: bool) -> None:
    """Show everything that is registered, or one KIND of it.

    KIND is solvers, gradients, traces, models, dynamics, datasets or plugins. Plugins that could not be loaded are
    told on stderr, a line each; `odekit list plugins` has these lines in its list too.
    """
    if as_json:
        click.echo(json.dumps(_as_json(command_catalog(), kind), indent=2))
        return
    loaded = announced_catalog()
    header, rows = _plugins(loaded) if kind == PLUGINS else _things(loaded, kind)
    if not rows:
        click.echo(f"no {_PLURALS.get(kind, PLUGINS) if kind else 'plugins'} are registered", err=True)
    elif sys.stdout.isatty():
        _write_rich(header, rows)
    else:
        _write_plain(header, rows)
    for line in loaded.problems if kind == PLUGINS else ():
        click.echo(f"\n{line}")


def _as_json(loaded: Catalog, kind: str | None) -> dict[str, Any]:
    """The sections asked for, always with the problems."""
    sections: dict[str, Any] = {}
    if kind != PLUGINS:
        sections["entries"] = [
            {
                "name": loaded.spelling(entry),
                "kind": entry.kind,
                "summary": entry.summary,
                "facts": entry.facts,
                "distribution": entry.distribution,
                "version": entry.version,
                "entry_point": entry.entry_point,
            }
            for entry in loaded.entries(kind)
        ]
    if kind in (None, PLUGINS):
        sections["plugins"] = [attrs.asdict(plugin) for plugin in loaded.plugins]
    return {**sections, "problems": loaded.problems}


Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def _things(loaded: Catalog, kind: str | None) -> Table:
    header = ("name", "kind", "facts", "from", "summary")
    rows = [
        (loaded.spelling(entry), entry.kind, _facts(entry), _origin(entry), entry.summary)
        for entry in loaded.entries(kind)
    ]
    return header, rows


def _plugins(loaded: Catalog) -> Table:
    header = ("name", "state", "from", "module")
    return header, [(p.name, p.state, _origin(p), p.value) for p in loaded.plugins]


def _origin(found: Entry | Plugin) -> str:
    return f"{found.distribution} {found.version}".rstrip()


def _facts(entry: Entry) -> str:
    facts = entry.facts
    match entry.kind:
        case "solver":
            order = (
                f"order {facts['order']}({facts['error_order']})" if facts["adaptive"] else f"order {facts['order']}"
            )
            steps = "adaptive" if facts["adaptive"] else "fixed steps"
            implicit = ["implicit"] if facts["implicit"] else []
            structure = [] if facts["structure"] == "general" else [f"{facts['structure']} systems"]
            return ", ".join([order, steps, *implicit, *structure])
        case "gradient":
            return f"{'exact' if facts['exact'] else 'of the ODE'}, memory {facts['memory']}"
        case "trace":
            return "exact" if facts["exact"] else "estimate"
        case _:
            return str(facts.get("task", ""))


def _write_plain(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    lines = [[cell.upper() for cell in header], *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _write_rich(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(box=None, header_style="bold", pad_edge=False)
    table.add_column(header[0], style="cyan", no_wrap=True)
    for title in header[1:]:
        table.add_column(title)
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)
