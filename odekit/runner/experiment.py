"""One experiment in the order it happens: spec, device, data, model, training, report."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import attrs
import torch

from odekit.core.protocols import Data, Model
from odekit.errors import DataError, InputError, OdekitError, OptionError, SolveError
from odekit.runner import choices, figures, report, toml
from odekit.runner.checkpoint import packed
from odekit.runner.device import Device, choose, peak_memory
from odekit.runner.distributed import Processes, joined
from odekit.runner.evaluation import Examiner
from odekit.runner.folder import RunFolder
from odekit.runner.progress import Display, evaluation_line
from odekit.runner.randomness import Randomness, restored
from odekit.runner.result import Result
from odekit.runner.spec import Choice, Spec
from odekit.runner.training import Trainer
from odekit.runner.watch import Stop, Watch

DATA_VARIABLE = "ODEKIT_DATA"

_SAVE_SECONDS = 60.0


@attrs.frozen(kw_only=True)
class Sitting:
    """What belongs to this sitting at the machine and not to the experiment.

    Attributes:
        data_folder: where datasets are; the environment variable ``ODEKIT_DATA`` by default.
        time_limit: seconds after which training stops; the run is evaluated and can be resumed.
        command: what was typed, for the report.
        display: where progress is shown.
    """

    data_folder: Path | None = None
    time_limit: float | None = attrs.field(default=None)
    command: str | None = None
    display: Display = attrs.field(factory=Display)

    @time_limit.validator
    def _positive(self, _: Any, value: float | None) -> None:
        if value is not None and not 0 < value < float("inf"):
            raise InputError(f"time_limit: expected a number of seconds above 0, got {value!r}")


def run(spec: Spec, out: Path | str | None = None, **sitting: Any) -> Result:
    """Train and evaluate what ``spec`` describes, and write everything to a folder.

    Args:
        out: the folder, which must be empty or not there yet; by default a new one in ``runs``.
        **sitting: see :class:`Sitting`.

    Raises:
        NameNotFound, OptionError, InputError: the spec asks for something that is not there or not possible.
        DeviceError: the device is not there.
        DataError: the data are not there.
        SolveError: a solver gave up; what there was before is saved.
        RunError: the folder cannot be used, or training cannot go on.
    """
    path = _default_folder(spec) if out is None else Path(out)
    with joined() as processes, _entered(RunFolder(path), processes) as folder:
        return _carry_out(spec, folder, Sitting(**sitting), processes)


def resume(folder: Path | str, **sitting: Any) -> Result:
    """Go on with the run in ``folder`` where it stopped, as if it had never stopped.

    Raises:
        RunError: there is no run in it, or no whole checkpoint; and as :func:`run`.
    """
    with joined() as processes, _entered(RunFolder(Path(folder), resumed=True), processes) as entered:
        return _carry_out(toml.parse(toml.read(entered.spec)), entered, Sitting(**sitting), processes)


def _carry_out(spec: Spec, folder: RunFolder, sitting: Sitting, processes: Processes) -> Result:
    note = sitting.display.note
    dtype: torch.dtype = getattr(torch, spec.dtype)
    device = choose(spec.device, dtype, processes.local_rank)
    note(f"{device}{f', {processes.world} processes' if processes.world > 1 else ''}")
    parts = choices.find(spec)
    spec = attrs.evolve(spec, device=device.device.type, threads=spec.threads or torch.get_num_threads())
    randomness = Randomness(spec.seed)
    with threads(spec.threads), restored(device.device):
        with processes.one_after_first():
            data = data_of(spec, parts, sitting.data_folder)
        model = model_of(spec, parts, data, randomness).to(device.device, dtype)
        trainer = Trainer(spec, model, data, device.device, randomness, processes)
        if folder.resumed:
            _restore(trainer, folder, processes, note)
        if sitting.command:
            trainer.state.commands.append(sitting.command)
        note(f"{_parameters(model):,} parameters, {trainer.total} steps of {trainer.batches.batch_size} samples")
        examine = Examiner(spec.evaluate.batch_size, spec.evaluate.limit, device.device, dtype, randomness, processes)
        keeper = Keeper(trainer, folder, sitting.display, device.device, processes)
        with Watch(processes, sitting.time_limit) as watch:
            stop = _train(trainer, examine, keeper, watch)
        if stop.asked:
            return _result(trainer, folder, device, processes, stop, {})
        return _finish(trainer, examine, folder, sitting, device, stop)


class Keeper:
    """Keeps what training comes to: checkpoints, metrics, lines for the user. Only the first process writes."""

    def __init__(
        self, trainer: Trainer, folder: RunFolder, display: Display, device: torch.device, processes: Processes
    ) -> None:
        self.trainer = trainer
        self.folder = folder
        self.display = display
        self._device = device
        self._writes = processes.first
        self._since = time.monotonic() - trainer.state.seconds
        self._saved = time.monotonic() if folder.resumed else -math.inf
        self._told = 0

    def begin(self) -> None:
        """Training begins."""
        self.display.begin(self.trainer.total, self.trainer.state.step)

    def stepped(self, measured: dict[str, float]) -> None:
        """A step was done. Saves after the first one, and when the last time is a while ago.

        A gradient method that a rule picked is told when it is picked for the first time in this sitting.
        """
        self.display.step(self.trainer.state.step, measured)
        for name, why in list(self.trainer.state.picked.items())[self._told :]:
            self.display.note(f"gradient: {name}, {why}")
            self._told += 1
        if time.monotonic() - self._saved > _SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write a checkpoint."""
        self.trainer.state.seconds = time.monotonic() - self._since
        if self._writes:
            if not self.folder.spec.exists():
                self.folder.write("spec.toml", toml.dumps(self.trainer.spec))
            self.folder.checkpoints.save(
                self.trainer.state.step, self.trainer.tensors(), attrs.asdict(self.trainer.state)
            )
        self._saved = time.monotonic()

    def evaluated(self, means: dict[str, float], metrics: dict[str, float]) -> None:
        """Write down an evaluation: the means over the steps before it, and the metrics of the validation part."""
        costs = {name: means.pop(name) for name in ("nfe_forward", "nfe_backward", "grad_norm")}
        record = {
            "step": self.trainer.state.step,
            "epoch": self.trainer.epoch,
            **{f"train_{name}": value for name, value in means.items()},
            **{f"valid_{name}": value for name, value in metrics.items()},
            **costs,
            "lr": self.trainer.rate,
            "wall_seconds": time.monotonic() - self._since,
            "peak_memory_mib": peak_memory(self._device),
        }
        if self._writes:
            self.folder.record(record)
        self.display.note(evaluation_line(record, self.trainer.total))


def _train(trainer: Trainer, examine: Examiner, keeper: Keeper, watch: Watch) -> Stop:
    """Train until the end or a reason to stop, and save.

    A checkpoint is written before each evaluation as well: one that is cut short is made again. After an error there is
    one of the last step that was done; if none was, there is nothing.
    """
    keeper.begin()
    try:
        while True:
            if trainer.due:
                keeper.save()
                metrics = examine(trainer.model, trainer.data.valid, "valid")
                means = trainer.summary()
                trainer.consider(metrics)
                keeper.evaluated(means, metrics)
            stop = Stop.FINISHED if trainer.done else watch.reason()
            if stop is not None:
                break
            keeper.stepped(trainer.advance())
    except Exception as error:
        if trainer.state.step == 0:
            raise
        keeper.save()
        if isinstance(error, SolveError):
            saved = f"training stopped at step {trainer.state.step}, saved in {keeper.folder.path}"
            raise SolveError(f"{saved}: {error}", error.status, error.solution) from error
        raise
    else:
        keeper.save()
        return stop
    finally:
        keeper.display.end()


def _finish(
    trainer: Trainer, examine: Examiner, folder: RunFolder, sitting: Sitting, device: Device, stop: Stop
) -> Result:
    """Evaluate the weights on the test part, and write them, the numbers, the pictures and the report."""
    model, spec, processes = trainer.model, trainer.spec, trainer.processes
    if trainer.best:
        model.load_state_dict(trainer.best)
    test = examine(model, trainer.data.test, "test")
    result = _result(trainer, folder, device, processes, stop, test)
    if processes.first:
        metadata = {"format": "pt", "model": spec.model.name, "step": str(result.weights_step)}
        folder.write("weights.safetensors", packed(model.state_dict(), metadata))
        folder.write("result.json", json.dumps(result.as_dict(), indent=2, allow_nan=False) + "\n")
        pictures = figures.draw(folder.figures, model, trainer.data, folder.records(), trainer.randomness)
        commands = trainer.state.commands or [f"odekit run {folder.spec}"]
        folder.write("report.md", report.written(result, spec, trainer.data.caveat, pictures, commands))
    return result


def _result(
    trainer: Trainer, folder: RunFolder, device: Device, processes: Processes, stop: Stop, test: dict[str, float]
) -> Result:
    state = trainer.state
    return Result(
        folder=folder.path,
        stop=stop,
        step=state.step,
        total=trainer.total,
        test=test,
        parameters=_parameters(trainer.model),
        weights="last" if state.best_step is None else "best",
        weights_step=state.step if state.best_step is None else state.best_step,
        nfe_forward=state.nfe / max(state.step, 1),
        nfe_backward=state.nfe_backward / max(state.step, 1),
        picked=dict(state.picked),
        seconds=state.seconds,
        peak_memory_mib=peak_memory(device.device),
        device=f"{device.device} ({device.reason})",
        processes=processes.world,
        threads=torch.get_num_threads(),
    )


def data_of(spec: Spec, parts: choices.Parts, folder: Path | None) -> Data:
    """The dataset that a spec names; datasets are in ``folder``, or where ``ODEKIT_DATA`` says."""
    place = folder or os.environ.get(DATA_VARIABLE) or None
    with _options_of("data", spec.data):
        data = parts.data.load(Path(place) if place else None, spec.seed, **spec.data.options)
    for part in ("train", "valid", "test"):
        if len(getattr(data, part)) == 0:
            raise DataError(f"the dataset {spec.data.name!r} has no samples in its {part} part")
    return data


def model_of(spec: Spec, parts: choices.Parts, data: Data, randomness: Randomness) -> Model:
    """A fresh model as a spec describes it, on the CPU."""
    randomness.seed_globals("model")
    with _options_of("model", spec.model):
        return parts.model.build(data.shape, data.classes, parts.tools, **spec.model.options)


@contextmanager
def _options_of(part: str, choice: Choice) -> Iterator[None]:
    """Say which table of the spec a complaint is about."""
    try:
        yield
    except OptionError as error:
        raise OptionError(f"{part}: {error}") from error
    except OdekitError:
        raise
    except (TypeError, ValueError) as error:
        options = ", ".join(f"{name}={value!r}" for name, value in choice.options.items()) or "its own defaults"
        raise InputError(f"{part}: {choice.name} does not accept {options}: {error}") from error


def _restore(trainer: Trainer, folder: RunFolder, processes: Processes, note: Any) -> None:
    checkpoint, damage = folder.checkpoints.newest()
    for line in damage:
        note(f"warning: {line}; going back to the one before")
    if checkpoint is not None:
        trainer.restore(checkpoint.tensors, checkpoint.state)
    if processes.first:
        folder.checkpoints.clean(checkpoint)
        folder.rewind(trainer.state.evaluated)
    note(f"resuming at step {trainer.state.step} of {trainer.total}")


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """So many CPU threads for what happens inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _entered(folder: RunFolder, processes: Processes) -> Iterator[RunFolder]:
    """The folder, locked by the first process."""
    with folder if processes.first else nullcontext():
        yield folder


def _default_folder(spec: Spec) -> Path:
    name = f"{spec.model.name}-{spec.data.name}".replace(":", "-")
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def _parameters(model: Model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


__all__ = ["DATA_VARIABLE", "Sitting", "data_of", "model_of", "resume", "run", "threads"]
