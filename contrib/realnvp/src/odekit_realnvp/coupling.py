"""Affine couplings: some entries of a vector say how the others are scaled and shifted."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from odekit_realnvp.bijection import Bijection

NONLINEARITIES: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
    "relu": nn.ReLU,
    "swish": nn.SiLU,
}


class AffineCoupling(Bijection):
    """``z_m = x_m exp(s(x_k)) + t(x_k)`` for the moved entries m, ``z_k = x_k`` for the kept ones k.

    Dinh, Sohl-Dickstein & Bengio 2017, *Density estimation using Real NVP*, (7) and (8). The log-scale is bounded, as
    theirs is by a tanh: s = limit tanh(· / limit). It is the identity until it is trained, for s and t begin as zero.

    Args:
        kept, moved: indices, which together are all of the vector's.
        hidden: widths of the network that s and t come from.
        nonlinearity: between its layers, a name in :data:`NONLINEARITIES`.
        limit: the largest |s|.
    """

    kept: Tensor
    moved: Tensor
    order: Tensor

    def __init__(
        self, kept: Sequence[int], moved: Sequence[int], hidden: Sequence[int], nonlinearity: str, limit: float
    ) -> None:
        super().__init__()
        self.limit = limit
        places = torch.tensor([*kept, *moved])
        self.register_buffer("kept", places[: len(kept)], persistent=False)
        self.register_buffer("moved", places[len(kept) :], persistent=False)
        self.register_buffer("order", places.argsort(), persistent=False)
        widths = [len(kept), *hidden]
        layers: list[nn.Module] = []
        for ends in itertools.pairwise(widths):
            layers += [nn.Linear(*ends), NONLINEARITIES[nonlinearity]()]
        last = nn.Linear(widths[-1], 2 * len(moved))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.net = nn.Sequential(*layers, last)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept = x[:, self.kept]
        log_scale, shift = self._affine(kept)
        moved = x[:, self.moved] * log_scale.exp() + shift
        return self._joined(kept, moved), log_scale.sum(1)

    def inverse(self, z: Tensor) -> Tensor:
        kept = z[:, self.kept]
        log_scale, shift = self._affine(kept)
        return self._joined(kept, (z[:, self.moved] - shift) * (-log_scale).exp())

    def _affine(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = self.net(kept).chunk(2, 1)
        return self.limit * torch.tanh(raw / self.limit), shift

    def _joined(self, kept: Tensor, moved: Tensor) -> Tensor:
        return torch.cat([kept, moved], 1)[:, self.order]
