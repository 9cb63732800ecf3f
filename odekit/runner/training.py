"""Optimisation, step by step: all that a step changes, and how to put it back."""

from __future__ import annotations

import math
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from odekit.core.protocols import Data, Model
from odekit.errors import RunError
from odekit.runner.distributed import Processes
from odekit.runner.evaluation import measure_for
from odekit.runner.randomness import Randomness
from odekit.runner.sampling import Batches
from odekit.runner.spec import Optimizer, Spec


@attrs.define
class State:
    """Where a run is, apart from its tensors.

    Attributes:
        step: steps done.
        evaluated: the step at which the latest evaluation was made.
        seconds: wall time so far, over all sittings.
        window: sums over the steps since that evaluation, by name; ``count`` of them.
        nfe, nfe_backward: calls of the dynamics in all training steps so far.
        picked: the gradient methods that a rule has picked so far, each with the reason that it gave first.
        best, best_step: the best evaluation so far, where ``select`` is ``"best"``.
        commands: what was typed, one for each sitting.
    """

    step: int = 0
    evaluated: int = 0
    seconds: float = 0.0
    window: dict[str, float] = attrs.field(factory=dict)
    count: int = 0
    nfe: float = 0.0
    nfe_backward: float = 0.0
    picked: dict[str, str] = attrs.field(factory=dict)
    best: float | None = None
    best_step: int | None = None
    commands: list[str] = attrs.field(factory=list)


class Trainer:
    """A model in training. Between two calls of :meth:`advance` its tensors and its state belong to the same step.

    Raises:
        InputError: the batch cannot be shared by the processes, or there are no samples.
    """

    def __init__(
        self, spec: Spec, model: Model, data: Data, device: torch.device, randomness: Randomness, processes: Processes
    ) -> None:
        self.spec = spec
        self.model = model
        self.data = data
        self.device = device
        self.randomness = randomness
        self.processes = processes
        self.state = State()
        self.best: dict[str, Tensor] = {}
        self.batches = Batches(len(data.train), spec.train.batch_size, randomness, processes.rank, processes.world)
        self.total = spec.train.steps or (spec.train.epochs or 0) * self.batches.per_epoch
        self.every = spec.evaluate.every or (self.batches.per_epoch if spec.train.epochs else max(1, self.total // 10))
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not self._parameters:
            raise RunError(f"the model {spec.model.name!r} has no parameter to train")
        self._optimizer = _optimizer(spec.optimizer, self._parameters)
        self._objective = processes.objective(model)
        self._dtype = self._parameters[0].dtype

    @property
    def done(self) -> bool:
        """Whether all steps are done."""
        return self.state.step >= self.total

    @property
    def due(self) -> bool:
        """Whether an evaluation belongs here and is still to be made."""
        step = self.state.step
        return step > self.state.evaluated and (step % self.every == 0 or self.done)

    @property
    def epoch(self) -> float:
        """Epochs done."""
        return self.state.step / self.batches.per_epoch

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return self.spec.optimizer.lr * self.spec.schedule.rate(self.state.step / self.total)

    def advance(self) -> dict[str, float]:
        """One step of the optimiser; what it measured, averaged over the processes.

        Raises:
            RunError: the loss or its gradient is not finite; the parameters are those before the step.
            SolveError: a solver gave up; likewise.
        """
        step, rank = self.state.step, self.processes.rank
        self.randomness.seed_globals("step", step, rank)
        x, y = self.batch(step, rank)
        for group in self._optimizer.param_groups:
            group["lr"] = self.rate
        self.model.train()
        self._optimizer.zero_grad(set_to_none=True)
        noise = self.randomness.generator("noise", step, rank, device=self.device)
        loss, details = self._objective(x, y, noise)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self.spec.train.grad_clip or math.inf)
        stats = self.model.solve_stats()
        measured = self._shared({
            "loss": loss.item(),
            **{name: float(value) for name, value in details.items()},
            "grad_norm": norm.item(),
            "nfe_forward": sum(each.nfe for each in stats),
            "nfe_backward": sum(each.nfe_backward for each in stats),
        })  # fmt: skip
        self._check_finite(measured)
        self._optimizer.step()
        self._count(measured)
        for each in stats:
            if each.why:
                self.state.picked.setdefault(each.gradient, each.why)
        return measured

    def summary(self) -> dict[str, float]:
        """Means over the steps since the latest evaluation, which begin anew."""
        state = self.state
        means = {name: total / state.count for name, total in state.window.items()}
        state.window, state.count, state.evaluated = {}, 0, state.step
        return means

    def consider(self, metrics: dict[str, float]) -> None:
        """Keep these weights if the spec selects the best and they are."""
        if self.spec.train.select != "best":
            return
        measure = measure_for(self.model.task)
        value = metrics[measure.headline]
        if self.state.best is None or measure.sign * (value - self.state.best) > 0:
            self.state.best, self.state.best_step = value, self.state.step
            self.best = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def tensors(self) -> dict[str, Tensor]:
        """Everything that goes into a checkpoint beside :attr:`state`."""
        moments = {
            f"optimizer.{index}.{name}": value
            for index, entry in self._optimizer.state_dict()["state"].items()
            for name, value in entry.items()
            if value is not None
        }
        weights = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        return {**weights, **moments, **{f"best.{name}": tensor for name, tensor in self.best.items()}}

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Go back to where :meth:`tensors` and :attr:`state` were taken.

        Raises:
            RunError: they are of another model or optimiser.
        """
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "best": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["optimizer"].items():
            index, _, key = name.partition(".")
            moments.setdefault(int(index), {})[key] = tensor
        try:
            self.model.load_state_dict(parts["model"])
            self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": moments})
        except (RuntimeError, ValueError) as error:
            raise RunError(f"the checkpoint does not fit the model that spec.toml describes: {error}") from error
        self.best = {name: tensor.to(self.device) for name, tensor in parts["best"].items()}
        self.state = State(**state)

    def batch(self, step: int, rank: int) -> tuple[Tensor, Tensor | None]:
        """Samples and labels of a process for a step, on the device."""
        indices = self.batches.indices(step)
        x, y = self.data.train.x[indices], self.data.train.y
        if self.data.augment is not None:
            x = self.data.augment(x, self.randomness.generator("augment", step, rank))
        return x.to(self.device, self._dtype), None if y is None else y[indices].to(self.device)

    def _shared(self, measured: dict[str, float]) -> dict[str, float]:
        values = self.processes.total(torch.tensor(list(measured.values()), dtype=torch.float64))
        return dict(zip(measured, (values / self.processes.world).tolist(), strict=True))

    def _check_finite(self, measured: dict[str, float]) -> None:
        for name, words in (("loss", "the loss"), ("grad_norm", "the gradient of the loss")):
            if not math.isfinite(measured[name]):
                raise RunError(
                    f"{words} became {measured[name]} at step {self.state.step}. Try a smaller --lr, --grad-clip 1, "
                    f"or tighter --rtol and --atol; the parameters before that step are in the checkpoint"
                )

    def _count(self, measured: dict[str, float]) -> None:
        state = self.state
        state.step += 1
        state.count += 1
        for name, value in measured.items():
            state.window[name] = state.window.get(name, 0.0) + value
        state.nfe += measured["nfe_forward"]
        state.nfe_backward += measured["nfe_backward"]


def _optimizer(setting: Optimizer, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    lr, decay = setting.lr, setting.weight_decay
    match setting.name:
        case "adam":
            return torch.optim.Adam(parameters, lr=lr, weight_decay=decay)
        case "adamw":
            return torch.optim.AdamW(parameters, lr=lr, weight_decay=decay)
        case _:
            return torch.optim.SGD(parameters, lr=lr, momentum=setting.momentum or 0.0, weight_decay=decay)
