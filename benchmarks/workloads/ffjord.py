"""A training step of FFJORD on tabular data: ten dimensions, end time trained along."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from benchmarks.workloads.fields import ConcatSquash
from benchmarks.workloads.work import Work, span

ROWS, SIZE, WIDTH = 512, 10, 64


class TrainedFlow(nn.Module):
    """The flow over s in [0, 1], with t = T s and a trained T; the state is z and what log p has lost so far."""

    noise: Tensor

    def __init__(self, noise: Tensor) -> None:
        super().__init__()
        sizes = (SIZE, WIDTH, WIDTH, SIZE)
        self.layers = nn.ModuleList(ConcatSquash(a, b) for a, b in itertools.pairwise(sizes))
        self.end = nn.Parameter(torch.tensor(0.5))
        self.register_buffer("noise", noise)

    def velocity(self, t: Tensor, z: Tensor) -> Tensor:
        z = self.layers[0](t, z)
        for layer in self.layers[1:]:
            z = layer(t, torch.tanh(z))
        return self.end * z

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            t = self.end * t.to(y.dtype).reshape(-1, 1)
            z = y[:, :SIZE]
            if not z.requires_grad:
                z = z.detach().requires_grad_()
            dz = self.velocity(t, z)
            (product,) = torch.autograd.grad(dz, z, self.noise, create_graph=keep)
        found = torch.cat([dz, -(product * self.noise).sum(1, keepdim=True)], 1)
        return found if keep else found.detach()


class Likelihood(nn.Module):
    def forward(self, ys: Tensor) -> Tensor:
        z, lost = ys[-1, :, :SIZE], ys[-1, :, SIZE]
        return (0.5 * z.square().sum(1) + lost).mean()


def ffjord() -> Work:
    torch.manual_seed(0)
    noise = torch.randint(2, (ROWS, SIZE)).float() * 2 - 1
    y0 = torch.cat([torch.randn(ROWS, SIZE), torch.zeros(ROWS, 1)], 1)
    title = "FFJORD training step, 10 dimensions, Hutchinson, trained end time"
    return Work(
        "ffjord", title, TrainedFlow(noise), y0, span(), rtol=1e-4, atol=1e-4, gradient="direct", loss=Likelihood()
    )


CASES = {"ffjord": ffjord}
