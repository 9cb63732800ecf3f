"""Networks that give one number, an energy, for each state."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

NONLINEARITIES: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "softplus": nn.Softplus, "swish": nn.SiLU}
"""Smooth ones only: what is learned is a derivative of the network."""


def mlp(inputs: int, hidden: Sequence[int], outputs: int, nonlinearity: str, bias: bool = True) -> nn.Sequential:
    """A fully connected network; without ``bias`` the last layer has none, for a constant has no derivative."""
    layers: list[nn.Module] = []
    for ends in itertools.pairwise([inputs, *hidden]):
        layers += [nn.Linear(*ends), NONLINEARITIES[nonlinearity]()]
    return nn.Sequential(*layers, nn.Linear([inputs, *hidden][-1], outputs, bias=bias))


class GeneralEnergy(nn.Module):
    """H(q, p), any function of both. Greydanus et al. 2019, *Hamiltonian neural networks*."""

    def __init__(self, size: int, hidden: Sequence[int], nonlinearity: str) -> None:
        super().__init__()
        self.net = mlp(2 * size, hidden, 1, nonlinearity, bias=False)

    def forward(self, q: Tensor, p: Tensor) -> Tensor:
        """``[..., n]`` twice to ``[...]``."""
        energy: Tensor = self.net(torch.cat([q, p], -1))
        return energy.squeeze(-1)


class SeparableEnergy(nn.Module):
    """H = T(p) + V(q), for which symplectic solvers of separable systems are."""

    def __init__(self, size: int, hidden: Sequence[int], nonlinearity: str) -> None:
        super().__init__()
        self.kinetic = mlp(size, hidden, 1, nonlinearity, bias=False)
        self.potential = mlp(size, hidden, 1, nonlinearity, bias=False)

    def forward(self, q: Tensor, p: Tensor) -> Tensor:
        """``[..., n]`` twice to ``[...]``."""
        energy: Tensor = self.kinetic(p) + self.potential(q)
        return energy.squeeze(-1)


class Lagrangian(nn.Module):
    """L(q, v) = ½ ‖v‖² + a network: at first a free particle of unit mass, and so never singular to begin with."""

    def __init__(self, size: int, hidden: Sequence[int], nonlinearity: str) -> None:
        super().__init__()
        self.net = mlp(2 * size, hidden, 1, nonlinearity, bias=False)
        with torch.no_grad():
            next(self.net[-1].parameters()).mul_(0.1)

    def forward(self, q: Tensor, v: Tensor) -> Tensor:
        """``[..., n]`` twice to ``[...]``."""
        correction: Tensor = self.net(torch.cat([q, v], -1))
        return 0.5 * v.square().sum(-1) + correction.squeeze(-1)


ENERGIES: dict[str, type[GeneralEnergy] | type[SeparableEnergy]] = {
    "general": GeneralEnergy,
    "separable": SeparableEnergy,
}
