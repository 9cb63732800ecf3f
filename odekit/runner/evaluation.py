"""How good a model is on a part of the data."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from odekit.core.protocols import Model, Split
from odekit.runner.distributed import Processes
from odekit.runner.randomness import Randomness


class Measure(ABC):
    """What is measured for a task.

    Class attributes:
        headline: the number that runs are compared by.
        sign: +1 where more of it is better, else -1.
        width: how many sums it needs.
    """

    headline: ClassVar[str]
    sign: ClassVar[int]
    width: ClassVar[int]

    @abstractmethod
    def sums(self, model: Any, x: Tensor, y: Any, generator: torch.Generator) -> Tensor:
        """Sums over a batch, ``[width]``."""

    @abstractmethod
    def metrics(self, sums: Tensor, samples: int) -> dict[str, float]:
        """Numbers for the reader, from the sums over all samples."""


class Classification(Measure):
    """The fraction classified wrongly, and the mean cross entropy in nats."""

    headline = "error"
    sign = -1
    width = 2

    def sums(self, model: Any, x: Tensor, y: Any, generator: torch.Generator) -> Tensor:
        logits = model(x)
        wrong = (logits.argmax(-1) != y).sum()
        return torch.stack([wrong.double(), torch.nn.functional.cross_entropy(logits.double(), y, reduction="sum")])

    def metrics(self, sums: Tensor, samples: int) -> dict[str, float]:
        wrong, cross_entropy = sums.tolist()
        return {"error": wrong / samples, "cross_entropy": cross_entropy / samples}


class Density(Measure):
    """The mean log-likelihood in nats, and its standard error."""

    headline = "log_likelihood"
    sign = 1
    width = 2

    def sums(self, model: Any, x: Tensor, y: Any, generator: torch.Generator) -> Tensor:
        log_prob = model.log_prob(x, generator).double()
        return torch.stack([log_prob.sum(), log_prob.square().sum()])

    def metrics(self, sums: Tensor, samples: int) -> dict[str, float]:
        total, squares = sums.tolist()
        mean = total / samples
        variance = max(squares / samples - mean**2, 0.0) * samples / max(samples - 1, 1)
        return {"log_likelihood": mean, "standard_error": math.sqrt(variance / samples)}


class Loss(Measure):
    """The mean training loss: for a task that has no measure of its own."""

    headline = "loss"
    sign = -1
    width = 1

    def sums(self, model: Any, x: Tensor, y: Any, generator: torch.Generator) -> Tensor:
        loss, _ = model.loss(x, y, generator)
        return loss.double().reshape(1) * len(x)

    def metrics(self, sums: Tensor, samples: int) -> dict[str, float]:
        return {"loss": sums.item() / samples}


_MEASURES: dict[str, Measure] = {"classification": Classification(), "density": Density()}


def measure_for(task: str) -> Measure:
    """What is measured for a task."""
    return _MEASURES.get(task, Loss())


@attrs.frozen
class Examiner:
    """Evaluates a model, always in the same batches and with the same noise.

    Each process takes every ``world``-th batch; what comes out is the same for all of them.
    """

    batch_size: int
    limit: int | None
    device: torch.device
    dtype: torch.dtype
    randomness: Randomness
    processes: Processes

    def __call__(self, model: Model, split: Split, part: str) -> dict[str, float]:
        """The metrics of the task on a part of the data, with ``samples`` used and the mean ``nfe`` of a batch."""
        measure = measure_for(model.task)
        samples = min(len(split), self.limit or len(split))
        starts = range(0, samples, self.batch_size)
        totals = torch.zeros(1 + measure.width, dtype=torch.float64)
        model.eval()
        with torch.no_grad():
            for number in range(self.processes.rank, len(starts), self.processes.world):
                rows = slice(starts[number], min(starts[number] + self.batch_size, samples))
                x = split.x[rows].to(self.device, self.dtype)
                y = None if split.y is None else split.y[rows].to(self.device)
                self.randomness.seed_globals(part, number)
                noise = self.randomness.generator(part, number, device=self.device)
                sums = measure.sums(model, x, y, noise).cpu()
                nfe = sum(stats.nfe for stats in model.solve_stats())
                totals += torch.cat([torch.tensor([nfe], dtype=torch.float64), sums])
        totals = self.processes.total(totals)
        return {**measure.metrics(totals[1:], samples), "nfe": totals[0].item() / len(starts), "samples": samples}
