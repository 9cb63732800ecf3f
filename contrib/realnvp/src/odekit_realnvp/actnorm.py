"""Normalisation whose constants are learned, and begin as what the first batch needs."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from odekit_realnvp.bijection import Bijection


class ActNorm(Bijection):
    """``z = (x + shift) exp(log_scale)``, entry by entry. Kingma & Dhariwal 2018, *Glow*, section 3.1."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(size))
        self.log_scale = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x + self.shift) * self.log_scale.exp(), self.log_scale.sum().expand(len(x))

    def inverse(self, z: Tensor) -> Tensor:
        return z * (-self.log_scale).exp() - self.shift

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Choose the constants so that ``x [B, D]`` comes out with mean zero and variance one in every entry.

        Where several processes train together, ``x`` is what all of them have. An entry that does not vary is left with
        the scale that it has.
        """
        mean = _over_processes(x.mean(0))
        deviation = _over_processes((x - mean).square().mean(0)).sqrt()
        self.shift.copy_(-mean)
        varies = deviation > 1e-6 * (1 + mean.abs())
        self.log_scale.copy_(torch.where(varies, -deviation.log(), self.log_scale))


def _over_processes(mean: Tensor) -> Tensor:
    """The mean of the means of equal batches."""
    if not (dist.is_available() and dist.is_initialized()):
        return mean
    total = mean.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
