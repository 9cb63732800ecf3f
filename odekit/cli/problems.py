"""The catalog for a command, after its problems have been told."""

from __future__ import annotations

import click

from odekit.cli.plugins import plugin_files
from odekit.registry import Catalog, catalog, load_plugin

_LOADED = "odekit.loaded"
_TOLD = "odekit.problems"


def command_catalog() -> Catalog:
    """The catalog, with the plugins in files that were typed.

    Raises:
        PluginError: one of these files cannot be loaded.
    """
    meta = click.get_current_context().meta
    if _LOADED not in meta:
        meta[_LOADED] = True
        for file in plugin_files():
            load_plugin(file)
    return catalog()


def announced_catalog() -> Catalog:
    """The same; its problems go to stderr, a line each, once in a command."""
    loaded = command_catalog()
    meta = click.get_current_context().meta
    if _TOLD not in meta:
        meta[_TOLD] = True
        for line in loaded.problems:
            click.echo(f"warning: {line}", err=True)
    return loaded
