"""The command ``odekit``."""

from __future__ import annotations

import click

import odekit
from odekit.cli.lazy import LazyCommand, LazyGroup

COMMANDS = {
    "check": LazyCommand("odekit.cli.check:check_command", "Measure whether a plugin is what it claims to be."),
    "list": LazyCommand("odekit.cli.list:list_command", "Show every registered solver, gradient, model, ..."),
    "new": LazyCommand("odekit.cli.new:new_command", "Write a distribution to begin a plugin of your own with."),
    "profile": LazyCommand(
        "odekit.cli.profile:profile_command", "Compare the gradient methods on your own model: memory, time, error."
    ),
    "run": LazyCommand("odekit.cli.run:run_command", "Train a model and write its results to a folder."),
}
"""Every command. Its module is imported when the command is called."""


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(odekit.__version__, prog_name="odekit")
def main() -> None:
    """Differential equations inside PyTorch models, every piece chosen by name."""
