"""A latent-ODE batch: irregular series, every row with times of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.workloads.fields import Network
from benchmarks.workloads.work import Work

ROWS, TIMES, LATENT = 64, 20, 8


class Decoder(nn.Module):
    """The squared error of decoded states ``[T, B, ...]`` against the batch's series."""

    series: Tensor

    def __init__(self, series: Tensor) -> None:
        super().__init__()
        self.out = nn.Sequential(nn.Linear(LATENT, 32), nn.Tanh(), nn.Linear(32, 1))
        self.register_buffer("series", series)

    def forward(self, ys: Tensor) -> Tensor:
        return (self.out(ys)[..., 0] - self.series).square().mean()


class Encoder(nn.Module):
    """A GRU over the series, to the latent start."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(1, 32)
        self.out = nn.Linear(32, LATENT)

    def forward(self, series: Tensor) -> Tensor:
        start: Tensor = self.out(self.cell(series[..., None])[0][-1])
        return start


def latent() -> Work:
    torch.manual_seed(0)
    inner = torch.rand(ROWS, TIMES - 2, dtype=torch.float64).sort(1).values
    t = torch.cat([torch.zeros(ROWS, 1).double(), inner, torch.ones(ROWS, 1).double()], 1)
    series = torch.sin(6 * t + torch.rand(ROWS, 1)).T.float().contiguous()
    return Work(
        "latent", "latent ODE, 64 series of 20 irregular times", Network(LATENT), series, t,
        rtol=1e-4, atol=1e-4, gradient="direct", rows=True, stem=Encoder(), loss=Decoder(series),
    )  # fmt: skip


CASES = {"latent": latent}
