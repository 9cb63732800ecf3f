"""``odekit run``: what may be typed, what it says, and what it ends with."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from odekit.cli.main import main
from odekit.cli.run import PATHS, run_command
from odekit.registry import catalog
from odekit.runner import Choice, Optimizer, Schedule, SolverChoice, Train, toml
from odekit.runner.folder import RunFolder

BASICS = ("stub-gaussian", "--data", "stub-plane", "--steps", "6", "--batch-size", "10")


@pytest.fixture(autouse=True)
def stubs() -> Iterator[None]:
    """The catalog with the runner's stubs."""
    place = Path(__file__).parents[1] / "runner" / "runner_stubs.py"
    made = importlib.util.spec_from_file_location("cli_stubs", place)
    assert made is not None
    assert made.loader is not None
    module = importlib.util.module_from_spec(made)
    made.loader.exec_module(module)
    catalog.cache_clear()
    catalog().register_plugin(module, distribution="stubs", version="1.2")
    yield
    catalog.cache_clear()


def odekit(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="odekit")


def test_a_run_tells_its_command_first_and_its_results_on_stdout(tmp_path: Path) -> None:
    result = odekit("run", *BASICS, "--out", tmp_path / "my run")
    assert result.exit_code == 0, result.stderr
    said = result.stderr.splitlines()
    assert (
        said[0]
        == f"$ odekit run stub-gaussian --data stub-plane --steps 6 --batch-size 10 --out '{tmp_path / 'my run'}'"
    )
    assert said[1] == "device: cpu (no CUDA device or MPS here)"
    assert sum(line.startswith("step ") for line in said) == 6
    assert said[3].startswith("step 1/6  epoch 0.25  train loss ")
    rows = dict(line.split("  ", 1) for line in result.stdout.splitlines())
    assert rows["held-out log-likelihood"].endswith(" nats")
    assert rows["report"].strip() == str(tmp_path / "my run" / "report.md")
    assert said[0][2:] in (tmp_path / "my run" / "report.md").read_text()


def test_json_is_one_object_and_quiet_is_quiet(tmp_path: Path) -> None:
    result = odekit("run", *BASICS, "--out", tmp_path / "run", "--json", "--quiet")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert json.loads(result.stdout) == json.loads((tmp_path / "run" / "result.json").read_text())


def test_every_flag_reaches_the_spec(tmp_path: Path) -> None:
    flags = {
        "solver": "rk4", "gradient": "checkpointed", "trace": "stub-probes", "rtol": "1e-3", "atol": "1e-4",
        "step-size": "0.25", "max-steps": "50", "steps": "2", "batch-size": "8", "grad-clip": "2", "select": "best",
        "optimizer": "sgd", "lr": "0.01", "weight-decay": "1e-4", "momentum": "0.9", "schedule": "steps",
        "eval-every": "2", "limit-test": "9", "seed": "7", "device": "cpu", "dtype": "float64", "threads": "1",
        "data": "stub-plane",
    }  # fmt: skip
    assert {flag.replace("-", "_") for flag in flags} == PATHS.keys() - {"epochs", "control"}
    typed = [part for flag, value in flags.items() for part in (f"--{flag}", value)]
    sets = ["schedule.drops=[0.5]", "schedule.factor=0.2", "trace.noise=gaussian", "trace.probes=2", "data.size=30"]
    result = odekit("run", "stub-gaussian", *typed, *(f"--set={s}" for s in sets), "--out", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    spec = toml.parse(toml.read(tmp_path / "run" / "spec.toml"))
    assert spec.solver == SolverChoice("rk4", rtol=1e-3, atol=1e-4, step_size=0.25, max_steps=50)
    assert spec.gradient == Choice("checkpointed")
    assert spec.trace == Choice("stub-probes", {"noise": "gaussian", "probes": 2})
    assert spec.data == Choice("stub-plane", {"size": 30})
    assert spec.train == Train(steps=2, batch_size=8, grad_clip=2.0, select="best")
    assert spec.optimizer == Optimizer("sgd", 0.01, 1e-4, 0.9)
    assert spec.schedule == Schedule("steps", (0.5,), 0.2)
    assert (spec.evaluate.every, spec.evaluate.limit) == (2, 9)
    assert (spec.seed, spec.device, spec.dtype, spec.threads) == (7, "cpu", "float64", 1)


def test_step_control_is_chosen_by_name(tmp_path: Path) -> None:
    result = odekit("run", *BASICS, "--control", "pi", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    assert toml.parse(toml.read(tmp_path / "run" / "spec.toml")).solver.control == "pi"
    unknown = odekit("run", *BASICS, "--control", "pdi", "--out", tmp_path / "other")
    assert unknown.exit_code == 1
    assert "control='pdi' is not known. Did you mean 'pi'?" in unknown.stderr
    both = odekit("run", *BASICS, "--control", "pi", "--step-size", "0.1", "--out", tmp_path / "third")
    assert both.exit_code == 1
    assert "either control= or step_size=" in both.stderr


def test_flags_override_the_file(tmp_path: Path) -> None:
    assert odekit("run", *BASICS, "--out", tmp_path / "a", "--lr", "0.5").exit_code == 0
    again = odekit(
        "run", tmp_path / "a" / "spec.toml", "--out", tmp_path / "b", "--epochs", "1", "--set", "data.size=20"
    )
    assert again.exit_code == 0, again.stderr
    spec = toml.parse(toml.read(tmp_path / "b" / "spec.toml"))
    assert (spec.train, spec.data.options, spec.optimizer.lr) == (Train(epochs=1, batch_size=10), {"size": 20}, 0.5)


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    sleepy = ("stub-sleepy", "--data", "stub-plane", "--steps", "40", "--time-limit", "0.2", "--out", tmp_path / "run")
    first = odekit("run", *sleepy)
    assert first.exit_code == 0
    assert (
        first.stdout.splitlines()[-1]
        == f"stopped by the time limit; go on with: odekit run --resume {tmp_path / 'run'}"
    )
    second = odekit("run", "--resume", tmp_path / "run")
    assert second.exit_code == 0
    assert "resuming at step " in second.stderr
    assert "40 of 40" in second.stdout
    report = (tmp_path / "run" / "report.md").read_text()
    assert f"odekit run --resume {tmp_path / 'run'}" in report
    assert "--time-limit 0.2" in report


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "say what to run: MODEL (`odekit list models` shows them), SPEC.toml, or --resume DIR"),
        (("stub-gaussian",), "say what to train on: --data NAME"),
        (("--resume", "x", "--lr", "1"), "--resume takes everything from x/spec.toml"),
        (("stub-gaussian", "--resume", "x"), "--resume takes everything from x/spec.toml"),
        ((*BASICS, "--set", "model.width"), "--set model.width: expected KEY=VALUE"),
        ((*BASICS, "--set", "train.steps=3"), "train.steps is set twice"),
        ((*BASICS, "--seed", "one"), "'one' is not a valid integer"),
        ((*BASICS, "--stepsize", "1"), "No such option '--stepsize'"),
    ],
)
def test_what_is_typed_wrongly(arguments: tuple[str, ...], said: str) -> None:
    result = odekit("run", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("stub-gausian", "--data", "stub-plane"), "no model is called 'stub-gausian'. Did you mean 'stub-gaussian'?"),
        (("stub-gaussian", "--data", "stub-clusters"), "data: 'stub-clusters' is for classification"),
        ((*BASICS, "--solver", "dopri55"), "no solver is called 'dopri55'. Did you mean 'dopri5'?"),
        ((*BASICS, "--rtol", "nan"), "solver.rtol: expected a finite number above 0, got nan"),
        ((*BASICS, "--step-size", "-0.1"), "solver.step_size: expected a finite number above 0, got -0.1"),
        ((*BASICS, "--epochs", "3"), "train.epochs and steps cannot both be given"),
        ((*BASICS, "--lr", "0"), "optimizer.lr: expected a finite number above 0, got 0.0"),
        ((*BASICS, "--set", "train.stepps=3"), "train.stepps is not known. Did you mean 'steps'?"),
        ((*BASICS, "--set", "tranin.steps=3"), "tranin is not known. Did you mean 'train'?"),
        (
            (*BASICS, "--set", "gradient.rtoll=3"),
            "gradient.rtoll: adjoint has no setting 'rtoll'. Did you mean 'rtol'?",
        ),
        ((*BASICS, "--device", "cuda:9"), "cuda:9 is not available. This machine has: cpu"),
        ((*BASICS, "--time-limit", "0"), "time_limit: expected a number of seconds above 0, got 0.0"),
        (("nothing.toml",), "nothing.toml cannot be read: No such file or directory"),
        (("--resume", "nothing"), "there is no run in nothing to resume"),
    ],
)
def test_what_cannot_be_run(arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = odekit("run", *arguments)
    assert result.exit_code == 1, result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert said in errors[0]
    assert result.stdout == ""


def test_a_spec_file_with_an_unknown_key(tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text(
        'model = "stub-gaussian"\ndata = "stub-plane"\n[optimizer]\nlearning_rate = 1e-3\n'
    )
    result = odekit("run", tmp_path / "spec.toml")
    assert result.exit_code == 1
    assert "optimizer.learning_rate is not known" in result.stderr


def test_a_folder_in_which_there_is_a_run(tmp_path: Path) -> None:
    assert odekit("run", *BASICS, "--out", tmp_path / "run").exit_code == 0
    result = odekit("run", *BASICS, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert f"is not empty. Go on with the run in it: odekit run --resume {tmp_path / 'run'}" in result.stderr


def test_a_solver_that_gives_up_is_exit_3(tmp_path: Path) -> None:
    result = odekit("run", *BASICS, "--set", "model.fail_at=3", "--out", tmp_path / "run")
    assert result.exit_code == 3
    assert result.stderr.splitlines()[-1] == (
        f"error: training stopped at step 3, saved in {tmp_path / 'run'}: the stub does not want to"
    )
    checkpoint, _ = RunFolder(tmp_path / "run").checkpoints.newest()
    assert checkpoint is not None
    assert checkpoint.step == 3


def test_help_imports_no_torch() -> None:
    code = (
        "import sys\nfrom odekit.cli.main import main\ntry:\n    main(['run', '--help'], prog_name='odekit')\n"
        "finally:\n    print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == "False"
    assert "--set KEY=VALUE" in done.stdout


def test_every_option_has_a_line_of_help() -> None:
    options = [parameter for parameter in run_command.params if isinstance(parameter, click.Option)]
    assert len(options) > 25
    assert [option.name for option in options if not option.help] == []
