"""``odekit run``: train a model and write its results to a folder."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from odekit.cli.plugins import plugin_files
from odekit.cli.problems import announced_catalog
from odekit.runner import toml

if TYPE_CHECKING:
    from odekit.runner.progress import Display
    from odekit.runner.result import Result

_TYPED = "odekit.typed"

PATHS = {
    "data": "data.name",
    "solver": "solver.name",
    "gradient": "gradient.name",
    "trace": "trace.name",
    "rtol": "solver.rtol",
    "atol": "solver.atol",
    "step_size": "solver.step_size",
    "control": "solver.control",
    "max_steps": "solver.max_steps",
    "epochs": "train.epochs",
    "steps": "train.steps",
    "batch_size": "train.batch_size",
    "grad_clip": "train.grad_clip",
    "select": "train.select",
    "optimizer": "optimizer.name",
    "lr": "optimizer.lr",
    "weight_decay": "optimizer.weight_decay",
    "momentum": "optimizer.momentum",
    "schedule": "schedule.name",
    "eval_every": "evaluate.every",
    "limit_test": "evaluate.limit",
    "seed": "seed",
    "device": "device",
    "dtype": "dtype",
    "threads": "threads",
}
"""Where the value of a flag goes in the spec."""


class RunCommand(click.Command):
    """A command that remembers what was typed."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        before = [word for file in plugin_files(ctx) for word in ("--plugin", str(file))]
        ctx.meta[_TYPED] = shlex.join(["odekit", *before, "run", *args])
        return super().parse_args(ctx, args)


@click.command("run", cls=RunCommand)
@click.argument("model", required=False, metavar="[MODEL | SPEC.toml]")
@click.option("--data", metavar="NAME", help="Dataset.")
@click.option("--solver", metavar="NAME", help="ODE solver.  [default: dopri5]")
@click.option("--gradient", metavar="NAME", help="Gradient method.  [default: adjoint]")
@click.option("--trace", metavar="NAME", help="Trace estimator, for densities.  [default: hutchinson]")
@click.option("--rtol", type=float, help="Relative tolerance of the solver.")
@click.option("--atol", type=float, help="Absolute tolerance of the solver.")
@click.option("--step-size", type=float, help="Fixed steps of this size.")
@click.option("--control", metavar="NAME", help="Step control: i, pi or pid.  [default: i]")
@click.option("--max-steps", type=int, help="Most steps in one solve.")
@click.option("--epochs", type=int, help="Length of training.  [default: 10]")
@click.option("--steps", type=int, help="Length of training, in place of --epochs.")
@click.option("--batch-size", type=int, help="Samples in a batch, over all processes.  [default: 128]")
@click.option("--optimizer", metavar="NAME", help="adam, adamw or sgd.  [default: adam]")
@click.option("--lr", type=float, help="Learning rate.  [default: 0.001]")
@click.option("--weight-decay", type=float, help="Weight decay of the optimizer.  [default: 0]")
@click.option("--momentum", type=float, help="Momentum of sgd.")
@click.option("--schedule", metavar="NAME", help="Learning rate: constant, cosine or steps.  [default: constant]")
@click.option("--grad-clip", type=float, help="Largest norm of the gradient.")
@click.option("--select", metavar="WHICH", help="Weights that count: last or best.  [default: last]")
@click.option("--eval-every", type=int, help="Steps between evaluations.  [default: an epoch, or a tenth of --steps]")
@click.option("--limit-test", type=int, help="Evaluate on this many samples only.")
@click.option("--seed", type=int, help="Everything random follows from it.  [default: 0]")
@click.option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps.  [default: auto]")
@click.option("--dtype", metavar="DTYPE", help="float32 or float64.  [default: float32]")
@click.option("--threads", type=int, help="CPU threads of each process.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any setting, e.g. model.width=64.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the results.  [default: a new one in runs]")
@click.option("--resume", type=click.Path(path_type=Path), metavar="DIR", help="Go on with the run in this folder.")
@click.option("--data-folder", type=click.Path(path_type=Path), help="Where datasets are.  [default: $ODEKIT_DATA]")
@click.option("--time-limit", type=float, metavar="SECONDS", help="Stop training then; --resume goes on.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object to stdout.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.pass_context
def run_command(
    ctx: click.Context,
    model: str | None,
    settings: tuple[str, ...],
    out: Path | None,
    resume: Path | None,
    data_folder: Path | None,
    time_limit: float | None,
    as_json: bool,
    quiet: bool,
    **flags: Any,
) -> None:
    """Train MODEL on a dataset, or run what SPEC.toml describes, and write the results to a folder.

    Flags override the file. Progress goes to stderr, results go to stdout.

    \b
    Examples:
      odekit run ffjord --data pinwheel --trace exact --steps 1500
      odekit run odenet --data mnist --gradient checkpointed --set model.width=32
      odekit run runs/first/spec.toml --seed 1
      odekit run --resume runs/first
    """
    changes = typed_changes(flags, settings)
    _check_usage(ctx, model, changes, out, resume)
    first = os.environ.get("RANK", "0") == "0"
    if first:
        announced_catalog()
    tables = {} if resume else typed_tables(ctx, model, changes)

    from odekit.runner import experiment
    from odekit.runner.progress import Display, display_on

    display: Display = display_on(sys.stderr) if first and not quiet else Display()
    command = ctx.meta[_TYPED]
    display.note(f"$ {command}")
    sitting = {"data_folder": data_folder, "time_limit": time_limit, "command": command, "display": display}
    result = experiment.resume(resume, **sitting) if resume else experiment.run(toml.parse(tables), out, **sitting)
    if first:
        _show(result, as_json)
    if result.stop.asked:
        ctx.exit(result.stop.exit_code)


def typed_changes(flags: Mapping[str, Any], settings: tuple[str, ...]) -> dict[str, Any]:
    """What was typed, by dotted path."""
    changes = {PATHS[flag]: value for flag, value in flags.items() if value is not None}
    for setting in settings:
        path, equals, value = setting.partition("=")
        if not equals or not all(path.split(".")):
            raise click.UsageError(f"--set {setting}: expected KEY=VALUE, such as model.width=64")
        if path in changes:
            raise click.UsageError(f"{path} is set twice")
        changes[path] = toml.literal(value)
    return changes


def _check_usage(
    ctx: click.Context, model: str | None, changes: Mapping[str, Any], out: Path | None, resume: Path | None
) -> None:
    if resume is None and model is None:
        ctx.fail("say what to run: MODEL (`odekit list models` shows them), SPEC.toml, or --resume DIR")
    if resume is not None and (model is not None or changes or out is not None or plugin_files()):
        ctx.fail(
            f"--resume takes everything from {resume / 'spec.toml'}; only --time-limit, --data-folder, --json and "
            f"--quiet go with it. For other settings start a new run: odekit run {resume / 'spec.toml'} ..."
        )


def typed_tables(ctx: click.Context, model: str | None, changes: dict[str, Any]) -> dict[str, Any]:
    """The spec's tables: the file, if one was named, with what was typed put over it, and plugins added to its own."""
    if model is not None and model.endswith(".toml"):
        tables = toml.changed(toml.read(Path(model)), changes)
    elif "data.name" in changes:
        tables = toml.changed({}, {"model.name": model, **changes})
    else:
        ctx.fail("say what to train on: --data NAME (`odekit list datasets` shows them)")
    return toml.with_plugins(tables, plugin_files())


def _show(result: Result, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(result.as_dict(), indent=2))
        return
    if result.stop.asked:
        click.echo(f"stopped by {result.stop} at step {result.step} of {result.total}")
        click.echo(f"go on with: odekit run --resume {shlex.quote(str(result.folder))}")
        return
    from odekit.runner.report import cells

    rows = [*cells(result), ("report", str(result.folder / "report.md"))]
    for picture in sorted((result.folder / "figures").glob("*.png")):
        rows.append(("picture", str(picture)))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name.ljust(width)}  {value}")
    if result.step < result.total:
        click.echo(f"stopped by {result.stop}; go on with: odekit run --resume {shlex.quote(str(result.folder))}")
