"""Small models and data for the runner's tests, and a command that runs with them in a process of its own."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import odekit
from odekit.core.protocols import Classifier, Data, Dataset, DensityModel, Split, Tools, TraceEstimator
from odekit.core.solution import Stats, Status
from odekit.errors import SolveError


class Restless(Classifier):
    """A linear classifier that draws from every generator there is. ``kill_at`` kills the process at that call."""

    name = "stub-restless"
    built: ClassVar[list[Restless]] = []

    def __init__(self, features: int, classes: int, noisy: bool, kill_at: int | None) -> None:
        super().__init__()
        self.noisy, self.kill_at, self.calls = noisy, kill_at, 0
        self.seeds: list[int] = []
        self.built.append(self)
        self.layer = nn.Linear(features, classes)
        self.stats = Stats()

    @classmethod
    def build(cls, shape: tuple[int, ...], classes: int | None, tools: Tools, **options: Any) -> Restless:
        noisy, kill_at = options.pop("noisy", True), options.pop("kill_at", None)
        if options:
            raise TypeError(f"unexpected options {sorted(options)}")
        return cls(shape[0], classes or 2, noisy, kill_at)

    def forward(self, x: Tensor) -> Tensor:
        self.stats = Stats(nfe=7, nfe_backward=5)
        if self.training and self.noisy:
            x = x + 0.1 * torch.rand(()) + 0.1 * np.random.rand() + 0.1 * random.random()
        return self.layer(x)

    def loss(self, x: Tensor, y: Tensor | None = None, generator: Any = None) -> tuple[Tensor, dict[str, Tensor]]:
        self.seeds.append(generator.initial_seed())
        if self.calls == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.calls += 1
        if self.noisy:
            x = x + 0.1 * torch.randn(x.shape, generator=generator, dtype=x.dtype)
        return super().loss(x, y, generator)


class Gaussian(DensityModel):
    """An axis-parallel Gaussian. At a training step ``fail_at`` the solver gives up, at ``nan_at`` the loss is NaN."""

    name = "stub-gaussian"

    def __init__(self, fail_at: int | None = None, nan_at: int | None = None) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(2))
        self.log_scale = nn.Parameter(torch.zeros(2))
        self.fail_at, self.nan_at = fail_at, nan_at
        self.calls = 0

    @classmethod
    def build(cls, shape: tuple[int, ...], classes: int | None, tools: Tools, **options: Any) -> Gaussian:
        return cls(**options)

    def log_prob(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        normal = torch.distributions.Normal(self.mean, self.log_scale.exp())
        return normal.log_prob(x).sum(-1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return self.mean + self.log_scale.exp() * torch.randn(n, 2, generator=generator, dtype=self.mean.dtype)

    def loss(self, x: Tensor, y: Tensor | None = None, generator: Any = None) -> tuple[Tensor, dict[str, Tensor]]:
        self.calls += 1
        if self.calls - 1 == self.fail_at:
            raise SolveError("the stub does not want to", Status.STEP_UNDERFLOW)
        loss, details = super().loss(x, y, generator)
        return (loss * float("nan") if self.calls - 1 == self.nan_at else loss), details


class Sleepy(Gaussian):
    """A Gaussian that takes its time."""

    name = "stub-sleepy"

    def loss(self, x: Tensor, y: Tensor | None = None, generator: Any = None) -> tuple[Tensor, dict[str, Tensor]]:
        time.sleep(0.02)
        return super().loss(x, y, generator)


class OneRankFails(Gaussian):
    """A Gaussian that fails in the second process only."""

    name = "stub-one-rank-fails"

    def loss(self, x: Tensor, y: Tensor | None = None, generator: Any = None) -> tuple[Tensor, dict[str, Tensor]]:
        if os.environ.get("RANK") == "1" and self.calls == 3:
            raise SolveError("the second process gave up", Status.NON_FINITE)
        return super().loss(x, y, generator)


class Clusters(Dataset):
    """Two clusters in the plane with their labels."""

    name = "stub-clusters"
    task = "classification"

    @classmethod
    def load(cls, folder: Path | None, seed: int, **options: Any) -> Data:
        size, still = options.pop("size", 40), options.pop("still", False)
        if options:
            raise TypeError(f"unexpected options {sorted(options)}")

        def split(number: int) -> Split:
            generator = torch.Generator().manual_seed(seed * 3 + number)
            y = torch.randint(2, (size,), generator=generator)
            return Split(torch.randn(size, 2, generator=generator) + 2.0 * y[:, None], y)

        def augment(x: Tensor, generator: torch.Generator) -> Tensor:
            return x + 0.01 * torch.randn(x.shape, generator=generator)

        parts = (split(0), split(1), split(2))
        return Data(*parts, shape=(2,), classes=2, caveat="the stub's caveat", augment=None if still else augment)


class Plane(Dataset):
    """Points in the plane without labels."""

    name = "stub-plane"
    task = "density"

    @classmethod
    def load(cls, folder: Path | None, seed: int, **options: Any) -> Data:
        size, empty = options.get("size", 40), options.get("empty")
        generator = torch.Generator().manual_seed(seed)
        parts = {part: Split(1 + 2 * torch.randn(size, 2, generator=generator)) for part in ("train", "valid", "test")}
        if empty:
            parts[empty] = Split(torch.zeros(0, 2))
        return Data(**parts, shape=(2,))


class Probes(TraceEstimator):
    """A trace estimator with settings to set."""

    name = "stub-probes"
    exact = False

    def __init__(self, probes: int = 1, noise: str = "rademacher", scale: float = 1.0) -> None:
        if probes < 1:
            raise ValueError("there must be a probe")
        self.probes, self.noise, self.scale = probes, noise, scale

    def __call__(self, f: Any, t: Tensor, y: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


@odekit.hookimpl
def register_models(register: Any) -> None:
    for model in (Restless, Gaussian, Sleepy, OneRankFails):
        register(model)


@odekit.hookimpl
def register_datasets(register: Any) -> None:
    register(Clusters)
    register(Plane)


@odekit.hookimpl
def register_trace_estimators(register: Any) -> None:
    register(Probes)


def install() -> None:
    """Put the stubs into the catalog."""
    from odekit.registry import catalog

    catalog().register_plugin(sys.modules[__name__], distribution="stubs", version="1.2")


def leave_behind(folder: Path) -> None:
    """What this process's model ended with: its parameters, and the seeds of its noise."""
    (model,) = Restless.built
    save_file(model.state_dict(), folder / f"rank-{os.environ['RANK']}.safetensors")
    (folder / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(model.seeds))


if __name__ == "__main__":
    from odekit.cli.main import main

    install()
    try:
        main(prog_name="odekit")
    finally:
        if folder := os.environ.get("STUB_PARAMETERS"):
            leave_behind(Path(folder))
