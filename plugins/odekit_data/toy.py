"""The eight 2-D densities on which continuous flows are usually shown (Grathwohl et al. 2019, *FFJORD*, figure 2).

All lie within about [-4, 4]². Every sampler is ``draw(n, generator) -> [n, 2]``.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

import odekit
from odekit.core import options as opt
from odekit.core.protocols import Data, Dataset, Split
from odekit_data.streams import stream


@attrs.frozen
class Sizes:
    """How many samples to draw for each part."""

    train: int = opt.whole(50_000)
    valid: int = opt.whole(10_000)
    test: int = opt.whole(10_000)


class ToyDensity(Dataset):
    """A 2-D density that can be sampled exactly. Options: ``train``, ``valid``, ``test``: numbers of samples."""

    task = "density"

    @staticmethod
    @abstractmethod
    def draw(n: int, generator: torch.Generator) -> Tensor:
        """``n`` independent samples ``[n, 2]``, float32."""

    @classmethod
    def load(cls, folder: Path | None, seed: int, **options: Any) -> Data:
        """Draw the three parts; a part depends on the seed and its own size only."""
        sizes = opt.read(Sizes, options, cls.name)
        return Data(
            train=Split(cls.draw(sizes.train, stream(cls.name, seed, "train"))),
            valid=Split(cls.draw(sizes.valid, stream(cls.name, seed, "valid"))),
            test=Split(cls.draw(sizes.test, stream(cls.name, seed, "test"))),
            shape=(2,),
        )


class SwissRoll(ToyDensity):
    """A spiral of one and a half turns, blurred."""

    name = "swissroll"

    @staticmethod
    def draw(n: int, generator: torch.Generator) -> Tensor:
        angle = 1.5 * math.pi * (1 + 2 * torch.rand(n, generator=generator))
        return 0.2 * (_polar(angle, angle) + _normal(n, generator))


class EightGaussians(ToyDensity):
    """Eight equal Gaussians on a circle."""

    name = "8gaussians"

    @staticmethod
    def draw(n: int, generator: torch.Generator) -> Tensor:
        angle = _pick(8, n, generator) * (math.pi / 4)
        return (_polar(torch.tensor(4.0), angle) + 0.5 * _normal(n, generator)) / math.sqrt(2)


class Pinwheel(ToyDensity):
    """Five blades that bend the more the farther out they are."""

    name = "pinwheel"

    @staticmethod
    def draw(n: int, generator: torch.Generator) -> Tensor:
        along, across = (_normal(n, generator) * torch.tensor([0.3, 0.1]) + torch.tensor([1.0, 0.0])).unbind(1)
        angle = _pick(5, n, generator) * (2 * math.pi / 5) + 0.25 * along.exp()
        return 2 * (_polar(along, angle) + _polar(across, angle + math.pi / 2))


class Circles(ToyDensity):
    """Two concentric circles, blurred."""

    name = "circles"

    @staticmethod
    def draw(n: int, generator: torch.Generator) -> Tensor:
        radius = 0.5 * (1 + _pick(2, n, generator))
        return 3 * (_polar(radius, _turn(n, generator)) + 0.08 * _normal(n, generator))


class Moons(ToyDensity):
    """Two interleaved half circles, blurred."""

    name = "moons"

    @staticmethod
    def draw(n: int, generator: torch.Generator) -> Tensor:
        lower = _pick(2, n, generator)
        arc = _polar(torch.tensor(1.0), math.pi * (torch.rand(n, generator=generator) + lower))
        shift = lower[:, None] * torch.tensor([1.0, 0.5])
        return 2 * (arc + shift + 0.1 * _normal(n, generator)) - torch.tensor([1.0, 0.2])


class TwoSpirals(ToyDensity):
    """Two spirals of one and a half turns that wind into each other."""

    name = "2spirals"

    @staticmethod
    def draw(n: int, generator: torch.Generator) -> Tensor:
        angle = 3 * math.pi * torch.rand(n, generator=generator).sqrt()
        arm = math.pi * _pick(2, n, generator)
        jitter = 0.5 * torch.rand(n, 2, generator=generator)
        arms = _polar(angle, angle + arm) + jitter * torch.cos(arm)[:, None]
        return arms / 3 + 0.1 * _normal(n, generator)


class Checkerboard(ToyDensity):
    """The eight like-coloured squares of a 4 × 4 board."""

    name = "checkerboard"

    @staticmethod
    def draw(n: int, generator: torch.Generator) -> Tensor:
        column = _pick(4, n, generator)
        row = 2 * _pick(2, n, generator) + column % 2
        corner = torch.stack([column, row], dim=1)
        return 2 * (corner + torch.rand(n, 2, generator=generator)) - 4


class Rings(ToyDensity):
    """Four concentric rings, blurred."""

    name = "rings"

    @staticmethod
    def draw(n: int, generator: torch.Generator) -> Tensor:
        radius = 0.75 * (1 + _pick(4, n, generator))
        return _polar(radius, _turn(n, generator)) + 0.08 * _normal(n, generator)


def _normal(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, 2, generator=generator)


def _pick(choices: int, n: int, generator: torch.Generator) -> Tensor:
    return torch.randint(choices, (n,), generator=generator).float()


def _turn(n: int, generator: torch.Generator) -> Tensor:
    return 2 * math.pi * torch.rand(n, generator=generator)


def _polar(radius: Tensor, angle: Tensor) -> Tensor:
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)


TOYS = (SwissRoll, EightGaussians, Pinwheel, Circles, Moons, TwoSpirals, Checkerboard, Rings)


@odekit.hookimpl
def register_datasets(register: Callable[[Any], None]) -> None:
    for toy in TOYS:
        register(toy)
