"""The catalog for a command, after its problems have been told."""

from __future__ import annotations

import click

from odekit.registry import Catalog, catalog

_TOLD = "odekit.problems"


def announced_catalog() -> Catalog:
    """The catalog; its problems go to stderr, a line each, once in a command."""
    loaded = catalog()
    meta = click.get_current_context().meta
    if _TOLD not in meta:
        meta[_TOLD] = True
        for line in loaded.problems:
            click.echo(f"warning: {line}", err=True)
    return loaded
