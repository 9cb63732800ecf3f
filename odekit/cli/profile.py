"""``odekit profile``: what every gradient method costs on the user's own model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from odekit.cli.problems import announced_catalog
from odekit.cli.run import PATHS, run_command, typed_changes, typed_tables
from odekit.runner import toml

if TYPE_CHECKING:
    from odekit.runner.profile import Cost, Profile

_SHARED = {*PATHS, "model", "settings", "data_folder", "as_json", "quiet"}
"""The arguments of ``odekit run`` that this command has too."""


@click.command("profile")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Passes to take the time of.")
@click.option(
    "--time-limit", type=click.FloatRange(0, min_open=True), default=300.0, show_default=True, metavar="SECONDS",
    help="For each gradient method.",
)  # fmt: skip
@click.pass_context
def profile_command(
    ctx: click.Context,
    model: str | None,
    settings: tuple[str, ...],
    data_folder: Path | None,
    as_json: bool,
    quiet: bool,
    repeats: int,
    time_limit: float,
    **flags: Any,
) -> None:
    """Compare all gradient methods on one batch of MODEL, or of what SPEC.toml describes, and recommend one.

    Takes what `odekit run` takes. Each method gets a fresh process, which tells the peak of memory above the model and
    the data, the time of a forward and backward pass, the calls of the dynamics in either, and the error of the
    gradient relative to a reference in float64.

    \b
    Examples:
      odekit profile ffjord --data pinwheel --trace exact
      odekit profile odenet --data mnist --batch-size 64 --set model.width=32
      odekit profile runs/first/spec.toml --json
    """
    if model is None:
        ctx.fail("say what to profile: MODEL (`odekit list models` shows them), or SPEC.toml")
    tables = typed_tables(ctx, model, typed_changes(flags, settings))
    announced_catalog()

    from odekit.runner.profile import profile

    told = (lambda line: None) if quiet else _on_stderr
    found = profile(
        toml.parse(tables),
        data_folder=data_folder,
        repeats=repeats,
        time_limit=time_limit,
        note=told,
        on_cost=lambda cost: told(_in_words(cost)),
    )
    click.echo(json.dumps(found.as_dict(), indent=2) if as_json else _table(found))


profile_command.params[:0] = [parameter for parameter in run_command.params if parameter.name in _SHARED]


def _on_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _in_words(cost: Cost) -> str:
    """A line for those who wait."""
    cells = _row(cost)
    if cost.problem:
        return f"  {cells[1]}"
    return "  {1} MiB, {2} ms, {3} calls forward, {4} backward, error {5}".format(*cells)


def _table(found: Profile) -> str:
    header = ["gradient", "peak MiB", "ms", "nfe", "nfe back", "error"]
    lines = [header, *(_row(cost) for cost in found.costs)]
    widths = [max(len(line[column]) for line in lines if len(line) > column) for column in range(len(header))]
    widths[1] = max(len(line[1]) for line in lines if len(line) == len(header))
    shown = [
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=False))])
        for line in lines
    ]
    advice = f"recommended: {found.recommended}, {found.reason}" if found.recommended else found.reason
    return "\n".join([*(line.rstrip() for line in shown), "", f"errors: relative to {found.reference}", advice])


def _row(cost: Cost) -> list[str]:
    if cost.problem:
        return [cost.gradient, f"- {cost.problem}"]
    name = f"{cost.gradient} ({cost.picked})" if cost.picked else cost.gradient
    error = "-" if cost.error is None else f"{cost.error:.1e}"
    return [
        name, f"{cost.peak_mib:.1f}", f"{1e3 * cost.seconds:.1f}", str(cost.nfe_forward), str(cost.nfe_backward), error
    ]  # fmt: skip
