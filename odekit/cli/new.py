"""``odekit new``: a distribution to begin with, which works as it stands."""

from __future__ import annotations

import os
from pathlib import Path

import click

from odekit.cli import template
from odekit.cli.problems import announced_catalog
from odekit.errors import InputError
from odekit.registry import KINDS
from odekit.registry.catalog import normalized


@click.command("new")
@click.argument("name")
@click.option("--kind", type=click.Choice(list(KINDS)), required=True, help="What it brings.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR",
    help="Folder to write, new or empty.  [default: the distribution's name]",
)  # fmt: skip
@click.option("--distribution", metavar="NAME", help="Name of the distribution.  [default: odekit-NAME]")
def new_command(name: str, kind: str, out: Path | None, distribution: str | None) -> None:
    """Write a distribution that adds NAME to odekit: a small class that works, its hook, tests and a README.

    What is written installs and passes its checks as it stands; what the class does is then yours to change.

    \b
    Examples:
      odekit new my-method --kind solver
      odekit new spirals --kind dataset --out plugins/spirals
    """
    names = template.Names.of(name, distribution)
    _refuse_known(kind, names)
    template.refuse_taken(names)
    folder = Path(names.distribution) if out is None else out
    for path in template.written(kind, names, folder):
        click.echo(path)
    place = os.path.join(".", folder) if not folder.is_absolute() else str(folder)
    click.echo(f"\npip install -e {place}\nodekit list {kind}\nodekit check {names.distribution}")


def _refuse_known(kind: str, names: template.Names) -> None:
    rivals = [entry for entry in announced_catalog().entries(kind) if entry.name == names.name]
    for entry in rivals:
        if normalized(entry.distribution) != normalized(names.distribution):
            raise InputError(
                f"{entry.distribution} has a {kind} {names.name!r} already; yours could only be reached as "
                f"'{names.distribution}:{names.name}'. Take another name."
            )
