"""Whole experiments: reruns and resumed runs come to the same bits, and a run that stops can go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import runner_stubs
import torch
from safetensors.torch import load_file

from odekit.core.solution import Stats
from odekit.errors import DataError, InputError, OptionError, RunError, SolveError
from odekit.runner import Choice, Evaluate, Optimizer, Result, Spec, Train, experiment, resume, run, toml
from odekit.runner.progress import Display
from odekit.runner.watch import Stop

TIMES = ("wall_seconds", "peak_memory_mib")
COMMAND = (sys.executable, runner_stubs.__file__, "run")


def restless(**given: Any) -> Spec:
    return Spec(
        **{
            "model": "stub-restless",
            "data": "stub-clusters",
            "train": Train(epochs=4, batch_size=8),
            "optimizer": Optimizer("adam", 0.05),
            "evaluate": Evaluate(every=4, batch_size=16),
            **given,
        }
    )


def gaussian(*, steps: int = 20, **options: Any) -> Spec:
    return Spec(model=Choice("stub-gaussian", options), data="stub-plane", train=Train(steps=steps, batch_size=10))


def lines(folder: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name not in TIMES} for record in records]


def assert_same(a: Path, b: Path) -> None:
    """The same metrics, results and weights, to the last bit."""
    assert lines(a) == lines(b)
    weights = [load_file(folder / "weights.safetensors") for folder in (a, b)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    results = [json.loads((folder / "result.json").read_text()) for folder in (a, b)]
    for name in ("test", "step", "nfe_forward", "nfe_backward", "weights_step"):
        assert results[0][name] == results[1][name]


class Recorder(Display):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_run_leaves_everything_in_its_folder(tmp_path: Path) -> None:
    display = Recorder()
    result = run(restless(), tmp_path / "run", display=display, command="odekit run x")
    files = {".lock", "spec.toml", "metrics.jsonl", "weights.safetensors", "result.json", "report.md"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == files | {"figures", "checkpoints"}
    assert (result.stop, result.step, result.total) == (Stop.FINISHED, 20, 20)
    assert result.test["error"] < 0.3
    assert [record["step"] for record in lines(tmp_path / "run")] == [4, 8, 12, 16, 20]
    assert {"train_loss", "valid_error", "valid_cross_entropy", "nfe_forward", "nfe_backward", "lr", "epoch"} <= set(
        lines(tmp_path / "run")[0]
    )
    assert display.notes[0].startswith("device: cpu")
    report = (tmp_path / "run" / "report.md").read_text()
    for expected in ("odekit run x", "the stub's caveat", "stubs 1.2", torch.__version__, "7.0 forward, 5.0 backward"):
        assert expected in report
    assert f"{100 * result.test['error']:.2f} %" in report


def test_a_gradient_method_that_a_rule_picked_is_told_and_kept(tmp_path: Path, monkeypatch) -> None:
    """Each once, with its first reason, which a resumed run keeps."""
    reasons = iter(["small", "still small", "large"])

    def solve_stats(model: runner_stubs.Restless) -> list[Stats]:
        why = next(reasons, "large again") if model.training else ""
        return [Stats(gradient="direct" if "small" in why else "checkpointed", why=why)]

    monkeypatch.setattr(runner_stubs.Restless, "solve_stats", solve_stats)
    display = Recorder()
    result = run(restless(), tmp_path / "run", display=display)
    told = ["gradient: direct, small", "gradient: checkpointed, large"]
    assert [note for note in display.notes if note.startswith("gradient")] == told
    assert result.picked == {"direct": "small", "checkpointed": "large"}
    assert json.loads((tmp_path / "run" / "result.json").read_text())["picked"] == result.picked
    assert "| gradient, picked | checkpointed: large |" in (tmp_path / "run" / "report.md").read_text()
    assert resume(tmp_path / "run").picked == result.picked


def test_the_resolved_spec_runs_again_to_the_same_bits(tmp_path: Path) -> None:
    run(restless(seed=3), tmp_path / "first")
    torch.manual_seed(99)
    spec = toml.parse(toml.read(tmp_path / "first" / "spec.toml"))
    assert (spec.device, spec.threads) == ("cpu", torch.get_num_threads())
    run(spec, tmp_path / "again")
    assert_same(tmp_path / "first", tmp_path / "again")
    run(restless(seed=4), tmp_path / "other")
    assert lines(tmp_path / "other") != lines(tmp_path / "first")


def test_the_callers_generators_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(restless(), tmp_path / "run")
    assert torch.equal(torch.rand(3), expected)


def test_killed_and_resumed_equals_never_stopped(tmp_path: Path) -> None:
    train = Train(epochs=4, batch_size=8, select="best")
    run(restless(train=train), tmp_path / "straight")
    (tmp_path / "spec.toml").write_text(
        toml.dumps(restless(train=train, model=Choice("stub-restless", {"kill_at": 14})))
    )
    command = [*COMMAND, str(tmp_path / "spec.toml"), "--out", str(tmp_path / "killed"), "--quiet"]
    assert subprocess.run(command, timeout=120).returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "weights.safetensors").exists()
    display = Recorder()
    result = resume(tmp_path / "killed", display=display)
    assert "resuming at step 12 of 20" in display.notes
    assert result.stop is Stop.FINISHED
    assert_same(tmp_path / "straight", tmp_path / "killed")


def test_stopped_between_evaluations_and_resumed_equals_never_stopped(tmp_path: Path, monkeypatch) -> None:
    run(restless(), tmp_path / "straight")
    watches = iter([None] * 6 + [Stop.TIME_LIMIT] + [None] * 3 + [Stop.INTERRUPTED] + [None] * 100)
    monkeypatch.setattr(experiment.Watch, "reason", lambda self: next(watches))
    first = run(restless(), tmp_path / "stopped")
    assert (first.stop, first.step) == (Stop.TIME_LIMIT, 6)
    assert first.test
    assert (
        "Training stopped at step 6 of 20 because of the time limit" in (tmp_path / "stopped" / "report.md").read_text()
    )
    second = resume(tmp_path / "stopped")
    assert (second.stop, second.step, second.test) == (Stop.INTERRUPTED, 9, {})
    assert resume(tmp_path / "stopped").stop is Stop.FINISHED
    assert_same(tmp_path / "straight", tmp_path / "stopped")


def test_a_damaged_checkpoint_is_told_and_gone_back_from(tmp_path: Path) -> None:
    run(restless(), tmp_path / "straight")
    watches = iter([None] * 13 + [Stop.TIME_LIMIT])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment.Watch, "reason", lambda self: next(watches))
        run(restless(), tmp_path / "damaged")
    (newest,) = (tmp_path / "damaged" / "checkpoints").glob("step-000000013-*.safetensors")
    newest.write_bytes(newest.read_bytes()[:-1] + b"\x7f")
    display = Recorder()
    resume(tmp_path / "damaged", display=display)
    warning, told = display.notes[1:3]
    assert "step-000000013.json is damaged" in warning
    assert told == "resuming at step 12 of 20"
    assert_same(tmp_path / "straight", tmp_path / "damaged")


def test_an_evaluation_that_was_cut_short_is_made_again(tmp_path: Path) -> None:
    run(restless(), tmp_path / "straight")
    evaluate, calls = experiment.Examiner.__call__, iter((True, False))

    def cut_short(*arguments: Any) -> dict[str, float]:
        if next(calls):
            return evaluate(*arguments)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment.Examiner, "__call__", cut_short)
        with pytest.raises(KeyboardInterrupt):
            run(restless(), tmp_path / "cut")
    display = Recorder()
    resume(tmp_path / "cut", display=display)
    assert "resuming at step 8 of 20" in display.notes
    assert_same(tmp_path / "straight", tmp_path / "cut")


def test_evaluations_are_of_their_own_part(tmp_path: Path) -> None:
    result = run(gaussian(), tmp_path / "run")
    model, data = runner_stubs.Gaussian(), runner_stubs.Plane.load(None, 0)
    model.load_state_dict(load_file(tmp_path / "run" / "weights.safetensors"))
    valid, test = (model.log_prob(part.x).mean().item() for part in (data.valid, data.test))
    assert lines(tmp_path / "run")[-1]["valid_log_likelihood"] == pytest.approx(valid, rel=1e-5)
    assert result.test["log_likelihood"] == pytest.approx(test, rel=1e-5)


def test_a_finished_run_resumes_to_the_same_end(tmp_path: Path) -> None:
    first = run(restless(), tmp_path / "run")
    again = resume(tmp_path / "run")
    assert (again.test, again.step) == (first.test, 20)
    assert len(lines(tmp_path / "run")) == 5


def test_a_real_time_limit(tmp_path: Path) -> None:
    spec = Spec(model="stub-sleepy", data="stub-plane", train=Train(steps=10_000, batch_size=4))
    result = run(spec, tmp_path / "run", time_limit=0.3)
    assert result.stop is Stop.TIME_LIMIT
    assert 1 <= result.step < 100
    assert "log_likelihood" in result.test
    with pytest.raises(InputError, match="time_limit"):
        run(spec, tmp_path / "other", time_limit=-1.0)


@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")])
def test_a_signal_saves_and_stops(tmp_path: Path, number: int, code: int, word: str) -> None:
    folder = tmp_path / "run"
    command = [
        *COMMAND,
        "stub-sleepy",
        "--data",
        "stub-plane",
        "--steps",
        "20000",
        "--eval-every",
        "5",
        "--out",
        str(folder),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 100
        while not (folder / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert f"stopped by {word}" in out
    assert f"odekit run --resume {folder}" in out
    checkpoint, damage = experiment.RunFolder(folder).checkpoints.newest()
    assert damage == []
    assert f"at step {checkpoint.step} of 20000" in out
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_solver_that_gives_up_leaves_what_there_was(tmp_path: Path) -> None:
    with pytest.raises(SolveError, match=r"training stopped at step 7, saved in .*run: the stub does not want to"):
        run(gaussian(fail_at=7), tmp_path / "run")
    checkpoint, _ = experiment.RunFolder(tmp_path / "run").checkpoints.newest()
    assert checkpoint.step == 7
    with pytest.raises(RunError, match="the loss became nan at step 9"):
        run(gaussian(nan_at=9), tmp_path / "nan")
    checkpoint, _ = experiment.RunFolder(tmp_path / "nan").checkpoints.newest()
    assert checkpoint.step == 9
    assert all(tensor.isfinite().all() for tensor in checkpoint.tensors.values())


def test_the_best_weights_are_those_that_count(tmp_path: Path) -> None:
    spec = gaussian(steps=40)
    spec = Spec(
        model=spec.model,
        data=spec.data,
        train=Train(steps=40, batch_size=10, select="best"),
        optimizer=Optimizer("sgd", 0.9),
    )
    result = run(spec, tmp_path / "run")
    records = lines(tmp_path / "run")
    best = max(records, key=lambda record: record["valid_log_likelihood"])
    assert result.weights_step == best["step"] < 40
    assert result.weights == "best"
    assert f"best evaluation, at step {best['step']}" in (tmp_path / "run" / "report.md").read_text()
    checkpoint, _ = experiment.RunFolder(tmp_path / "run").checkpoints.newest()
    weights = load_file(tmp_path / "run" / "weights.safetensors")
    assert torch.equal(weights["mean"], checkpoint.tensors["best.mean"])
    assert not torch.equal(weights["mean"], checkpoint.tensors["model.mean"])


def test_two_dimensional_densities_get_their_picture(tmp_path: Path) -> None:
    run(gaussian(), tmp_path / "run")
    assert {path.name for path in (tmp_path / "run" / "figures").iterdir()} == {"training.png", "density.png"}
    assert "figures/density.png" in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        (
            {"model": Choice("stub-restless", {"widht": 3})},
            InputError,
            r"^model: stub-restless does not accept widht=3",
        ),
        ({"data": Choice("stub-clusters", {"sise": 3})}, InputError, "^data: stub-clusters does not accept sise=3"),
        (
            {"data": Choice("pinwheel", {"tran": 3}), "model": "stub-gaussian"},
            OptionError,
            "^data: pinwheel has no .*'tran'",
        ),
        ({"data": "stub-plane"}, OptionError, "is for density"),
        ({"data": "stub-plane", "model": Choice("stub-gaussian", {"fail_at": 0})}, SolveError, "^the stub does not"),
        ({"device": "cuda:7"}, RuntimeError, r"cuda:7 is not available\. This machine has: cpu"),
    ],
)
def test_a_run_that_cannot_begin_leaves_nothing(
    tmp_path: Path, given: dict[str, Any], kind: type, message: str
) -> None:
    with pytest.raises(kind, match=message):
        run(restless(**given), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_empty_part_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no samples in its valid part"):
        run(Spec(model="stub-gaussian", data=Choice("stub-plane", {"empty": "valid"})), tmp_path / "run")


def test_the_data_folder_comes_from_the_call_or_the_environment(tmp_path: Path, monkeypatch) -> None:
    seen = []
    load = runner_stubs.Plane.load.__func__

    def looking(cls: type, folder: Path | None, seed: int, **options: Any) -> Any:
        seen.append(folder)
        return load(cls, folder, seed, **options)

    monkeypatch.setattr(runner_stubs.Plane, "load", classmethod(looking))
    monkeypatch.delenv("ODEKIT_DATA", raising=False)
    run(gaussian(steps=1), tmp_path / "a")
    monkeypatch.setenv("ODEKIT_DATA", str(tmp_path))
    run(gaussian(steps=1), tmp_path / "b")
    run(gaussian(steps=1), tmp_path / "c", data_folder=tmp_path / "data")
    assert seen == [None, tmp_path, tmp_path / "data"]


def test_double_precision_all_the_way(tmp_path: Path) -> None:
    run(Spec(model="stub-gaussian", data="stub-plane", train=Train(steps=2), dtype="float64"), tmp_path / "run")
    weights = load_file(tmp_path / "run" / "weights.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float64}


def test_a_result_is_json(tmp_path: Path) -> None:
    result: Result = run(gaussian(steps=1), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result.as_dict()
    assert result.as_dict()["stop"] == "finished"


def test_without_a_folder_a_new_one_is_made_in_runs(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(gaussian(steps=1))
    assert result.folder.parent == Path("runs")
    assert result.folder.name.startswith("stub-gaussian-stub-plane-")
    assert (tmp_path / result.folder / "report.md").is_file()
    assert os.listdir(tmp_path) == ["runs"]
