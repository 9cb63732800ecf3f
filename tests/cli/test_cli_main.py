"""The frame of the command line: help without imports, wording, exit codes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner, Result

import odekit
from odekit.cli.lazy import LazyCommand, LazyGroup
from odekit.cli.main import COMMANDS, main
from odekit.core.solution import Status
from odekit.errors import InputError, SolveError

ERRORS = {
    "input": InputError("rtol must be positive,\n  but is -1. Write rtol=1e-6."),
    "solve": SolveError("the solver gave up at t = 0.5", Status.MAX_STEPS),
    "other": ZeroDivisionError("division by zero\nsecond line"),
    "silent": RuntimeError(),
    "ctrl-c": KeyboardInterrupt(),
    "abort": click.Abort(),
    "usage": click.UsageError("these two do not go together"),
    "exit": click.exceptions.Exit(7),
    "pipe": BrokenPipeError(errno.EPIPE, "Broken pipe"),
}


@click.command()
@click.argument("error")
@click.option("--seed", type=int)
def fail(error: str, seed: int | None) -> None:
    """Fail in a chosen way."""
    click.echo("half a result")
    raise ERRORS[error]


GROUP = LazyGroup(
    "odekit",
    lazy={
        "fail": LazyCommand(f"{__name__}:fail", "Fail."),
        "ghost": LazyCommand("odekit_ghost_module:ghost", "Is not there."),
    },
)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(GROUP, arguments, prog_name="odekit")


HINT = " (`odekit --debug ...` shows where)"


@pytest.mark.parametrize(
    ("case", "code", "stderr"),
    [
        ("input", 1, "error: rtol must be positive, but is -1. Write rtol=1e-6.\n"),
        ("solve", 3, "error: the solver gave up at t = 0.5\n"),
        ("other", 1, f"error: ZeroDivisionError: division by zero{HINT}\n"),
        ("silent", 1, f"error: RuntimeError{HINT}\n"),
        ("ctrl-c", 130, "error: stopped with Ctrl-C\n"),
        ("abort", 130, "error: stopped with Ctrl-C\n"),
        ("exit", 7, ""),
        ("pipe", 1, ""),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(case: str, code: int, stderr: str) -> None:
    result = run("fail", case)
    assert (result.exit_code, result.stderr) == (code, stderr)
    assert result.stdout == "half a result\n"


def test_usage_errors_end_with_2() -> None:
    result = run("fail", "usage")
    assert result.exit_code == 2
    assert result.stderr.endswith("Error: these two do not go together\n")


@pytest.mark.parametrize("arguments", [("--debug", "fail", "solve"), ("fail", "solve", "--debug")])
def test_debug_shows_the_traceback_and_keeps_the_exit_code(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 3
    assert result.stderr.startswith("Traceback (most recent call last):")
    assert "raise ERRORS[error]" in result.stderr
    assert result.stderr.endswith("\nerror: the solver gave up at t = 0.5\n")


def test_debug_does_not_stay_for_the_next_command() -> None:
    run("--debug", "fail", "solve")
    assert "Traceback" not in run("fail", "solve").stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("fial", "x"), "Error: no command is called 'fial'. Did you mean 'fail'? Known: fail, ghost."),
        (("fail", "--sed", "1"), "Did you mean '--seed'?"),
        (("--debugg", "fail"), "Did you mean '--debug'?"),
        (("fail", "input", "--seed", "x"), "'x' is not a valid integer"),
        (("fail",), "Missing argument 'ERROR'"),
    ],
)
def test_mistyped_commands_end_with_2_and_offer_the_nearest(arguments: tuple[str, ...], line: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert line in result.stderr
    assert result.stdout == ""


def test_a_command_whose_module_fails_to_import_is_one_line() -> None:
    result = run("ghost")
    assert result.exit_code == 1
    assert result.stderr == f"error: ModuleNotFoundError: No module named 'odekit_ghost_module'{HINT}\n"


def test_help_lists_commands_without_importing_them() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert "ghost  Is not there." in result.stdout
    assert "--debug" in result.stdout


def test_each_command_has_help_and_debug() -> None:
    for name, command in COMMANDS.items():
        result = CliRunner().invoke(main, [name, "--help"], prog_name="odekit")
        assert result.exit_code == 0, result.stderr
        assert f"Usage: odekit {name} " in result.stdout
        assert "--debug" in result.stdout
        assert command.help.endswith(".")


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_and_version_import_neither_torch_nor_plugins(argument: str) -> None:
    code = f"""
import sys
from odekit.cli.main import main
try:
    main([{argument!r}], prog_name="odekit")
except SystemExit as end:
    assert end.code == 0
print(*sorted({{name.partition(".")[0] for name in sys.modules}}), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stderr.split())
    assert "odekit" in imported
    assert not imported & {"torch", "numpy", "pluggy", "importlib_metadata", "rich", "matplotlib"}
    assert not [name for name in imported if name.startswith("odekit_")]
    assert ("list" in done.stdout) == (argument == "--help")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("odekit pro", {"profile"}),
        ("odekit run --solv", {"--solver"}),
        ("odekit run --plug", {"--plugin"}),
        ("odekit list gra", {"gradients"}),
        ("odekit new mine --kind da", {"dataset"}),
        ("odekit check odek", {"odekit"}),
        ("odekit check --plugin no-such-file.py odek", {"odekit"}),
    ],
)
def test_completion_imports_neither_torch_nor_plugins(words: str, expected: set[str]) -> None:
    code = """
import sys
from odekit.cli.main import main
try:
    main(prog_name="odekit")
except SystemExit:
    pass
print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""
    asked = {
        "_ODEKIT_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
        "ODEKIT_STRICT": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True, check=True
    )
    assert expected <= {line.partition(",")[2] for line in done.stdout.splitlines()}
    imported = set(done.stderr.split())
    assert not imported & {"torch", "numpy", "matplotlib"}
    assert not [name for name in imported if name.startswith("odekit_")]


def test_importing_odekit_imports_neither_torch_nor_pluggy() -> None:
    code = "import sys, odekit; sys.exit(bool({'torch', 'pluggy', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_python_dash_m_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "odekit", "lisst"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: odekit ")
    assert "Did you mean 'list'?" in done.stderr
    done = subprocess.run([sys.executable, "-m", "odekit", "--version"], capture_output=True, text=True, check=False)
    assert done.stdout == f"odekit, version {odekit.__version__}\n"
