"""Mechanical systems in closed form, as dynamics: what is to be learned, and what it is measured by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

import odekit


class System(ABC):
    """dq/dt = p, dp/dt = -∇V(q), for a state ``[..., 2n]``, which is [q | p]: unit masses, so that p is q̇ as well.

    Class attributes:
        size: n.
    """

    name: ClassVar[str]
    size: ClassVar[int]

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        q, p = y.chunk(2, -1)
        return torch.cat([p, self.force(q)], -1)

    def energy(self, y: Tensor) -> Tensor:
        """½ ‖p‖² + V(q): ``[..., 2n]`` to ``[...]``."""
        q, p = y.chunk(2, -1)
        return 0.5 * p.square().sum(-1) + self.potential(q)

    def example(self) -> Tensor:
        """A few states ``[4, 2n]``."""
        return self.starts(4, torch.Generator().manual_seed(0)).float()

    @abstractmethod
    def potential(self, q: Tensor) -> Tensor:
        """V."""

    @abstractmethod
    def force(self, q: Tensor) -> Tensor:
        """-∇V."""

    @abstractmethod
    def starts(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` states from which trajectories begin, ``[n, 2n]`` in float64."""


class Pendulum(System):
    """A pendulum of unit length in unit gravity that swings and does not turn over: H = ½ p² + 1 - cos q."""

    name = "pendulum"
    size = 1

    def potential(self, q: Tensor) -> Tensor:
        return (1 - q.cos()).sum(-1)

    def force(self, q: Tensor) -> Tensor:
        return -q.sin()

    def starts(self, n: int, generator: torch.Generator) -> Tensor:
        return _uniform(n, 2, generator) * torch.tensor([2.0, 1.0])


class Spring(System):
    """A mass on a spring: H = ½ p² + ½ q²."""

    name = "spring"
    size = 1

    def potential(self, q: Tensor) -> Tensor:
        return 0.5 * q.square().sum(-1)

    def force(self, q: Tensor) -> Tensor:
        return -q

    def starts(self, n: int, generator: torch.Generator) -> Tensor:
        return 1.5 * _uniform(n, 2, generator)


class TwoBody(System):
    """Two bodies in the plane that attract each other: H = ½ ‖p‖² - 1 / ‖q₁ - q₂‖; q is [x₁, y₁, x₂, y₂].

    They begin on nearly circular orbits around their common centre, which rests.
    """

    name = "two-body"
    size = 4

    def potential(self, q: Tensor) -> Tensor:
        one, other = q.chunk(2, -1)
        return -(one - other).square().sum(-1).rsqrt()

    def force(self, q: Tensor) -> Tensor:
        one, other = q.chunk(2, -1)
        apart = one - other
        pull = -apart * apart.square().sum(-1, keepdim=True) ** -1.5
        return torch.cat([pull, -pull], -1)

    def starts(self, n: int, generator: torch.Generator) -> Tensor:
        radius, angle, push = (1 + 0.5 * _uniform(n, 3, generator) * torch.tensor([1.0, 2.0, 0.2])).unbind(1)
        angle = torch.pi * angle
        speed = push / (2 * radius.sqrt())
        place = radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
        motion = speed[:, None] * torch.stack([-angle.sin(), angle.cos()], 1)
        return torch.cat([place, -place, motion, -motion], 1)


SYSTEMS: tuple[type[System], ...] = (Pendulum, Spring, TwoBody)


def _uniform(n: int, size: int, generator: torch.Generator) -> Tensor:
    """In [-1, 1]."""
    return 2 * torch.rand(n, size, generator=generator, dtype=torch.float64) - 1


@odekit.hookimpl
def register_dynamics(register: Callable[[Any], None]) -> None:
    for system in SYSTEMS:
        register(system)
