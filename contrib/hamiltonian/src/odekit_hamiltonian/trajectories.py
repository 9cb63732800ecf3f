"""Trajectories of the systems, as datasets."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

import odekit
from odekit.core import options as opt
from odekit.core.protocols import Data, Dataset, Split
from odekit_hamiltonian.systems import Pendulum, Spring, System, TwoBody

TASK = "trajectories"

_SUBSTEPS = 8


@attrs.frozen
class TrajectoryOptions:
    """How many trajectories, how many points on each, the time between two points, and how noisy they are."""

    train: int = opt.whole(1_000)
    valid: int = opt.whole(200)
    test: int = opt.whole(200)
    points: int = opt.whole(9, at_least=2)
    spacing: float = opt.real(0.125, above=0)
    noise: float = opt.real(0.0, at_least=0)


class Trajectories(Dataset):
    """Trajectories ``[N, points, 1 + 2n]`` of a system: the time, from 0, and the state [q | p].

    Solved by ``kahan_li6`` in float64, with eight steps between two points. Options: ``train``, ``valid``, ``test``
    (numbers of trajectories), ``points``, ``spacing`` (the time between two points), ``noise`` (the standard deviation
    of what is added to the states of training and validation; the test part is free of it).
    """

    task = TASK
    system: ClassVar[type[System]]

    @classmethod
    def load(cls, folder: Path | None, seed: int, **options: Any) -> Data:
        """Solve; a part depends on the seed, its own size and the other options only."""
        chosen = opt.read(TrajectoryOptions, options, cls.name)

        def part(name: str, size: int, noise: float) -> Split:
            generator = _stream(cls.name, seed, name)
            return Split(trajectories(cls.system(), size, chosen.points, chosen.spacing, noise, generator).float())

        return Data(
            train=part("train", chosen.train, chosen.noise),
            valid=part("valid", chosen.valid, chosen.noise),
            test=part("test", chosen.test, 0.0),
            shape=(chosen.points, 1 + 2 * cls.system.size),
        )


class PendulumTrajectories(Trajectories):
    """A pendulum that swings. Options: see :class:`Trajectories`."""

    name = "pendulum"
    system = Pendulum


class SpringTrajectories(Trajectories):
    """A mass on a spring. Options: see :class:`Trajectories`."""

    name = "spring"
    system = Spring


class TwoBodyTrajectories(Trajectories):
    """Two bodies on nearly circular orbits. Options: see :class:`Trajectories`."""

    name = "two-body"
    system = TwoBody


def trajectories(
    system: System, n: int, points: int, spacing: float, noise: float, generator: torch.Generator
) -> Tensor:
    """``[n, points, 1 + 2n]`` in float64: the time and the state."""
    times = spacing * torch.arange(points, dtype=torch.float64)
    with torch.no_grad():
        states = odekit.solve(
            system, system.starts(n, generator), times, solver="kahan_li6", step_size=spacing / _SUBSTEPS
        ).ys.transpose(0, 1)
    states = states + noise * torch.randn(states.shape, generator=generator, dtype=states.dtype)
    return torch.cat([times.expand(n, points)[..., None], states], -1)


def _stream(*labels: object) -> torch.Generator:
    """A generator of its own for these labels, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, labels)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@odekit.hookimpl
def register_datasets(register: Callable[[Any], None]) -> None:
    for dataset in (PendulumTrajectories, SpringTrajectories, TwoBodyTrajectories):
        register(dataset)
