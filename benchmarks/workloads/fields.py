"""The vector fields of the workloads. competitors/fields_in_jax.py has them once more, by class name."""

from __future__ import annotations

import itertools
from typing import cast

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """3 · MLP(D-64-64-D) with tanh."""

    def __init__(self, size: int = 2, width: int = 64) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(size, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, size)
        )

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return 3 * cast(Tensor, self.net(y))


class Linear(nn.Module):
    """A decaying rotation, y A."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.tensor([[-0.1, 2.0], [-2.0, -0.1]]))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return y @ self.matrix


class Layer(nn.Module):
    """tanh of one wide linear map."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.linear(y))


class VanDerPol(nn.Module):
    """Van der Pol's oscillator with a μ ``[B, 1]`` for every row."""

    def forward(self, t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
        x, v = y[..., :1], y[..., 1:]
        return torch.cat([v, mu * (1 - x * x) * v - x], -1)


class Robertson(nn.Module):
    """Robertson's three reactions, their rates multiplied by a factor ``[B, 1]`` for every row."""

    def forward(self, t: Tensor, y: Tensor, factor: Tensor) -> Tensor:
        a, b, c = y[..., :1], y[..., 1:2], y[..., 2:]
        slow, fast, pair = 0.04 * factor * a, 1e4 * b * c, 3e7 * b * b
        return torch.cat([fast - slow, slow - fast - pair, pair], -1)


class ConcatSquash(nn.Module):
    """W x + b, scaled by a gate and moved by a shift that depend on t."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.linear, self.gate = nn.Linear(into, out), nn.Linear(1, out)
        self.shift = nn.Linear(1, out, bias=False)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return cast(Tensor, self.linear(x) * torch.sigmoid(self.gate(t)) + self.shift(t))


class Flow(nn.Module):
    """A continuous normalizing flow in the plane: the state ``[B, 3]`` is z and what log p has lost so far.

    The trace of ∂f/∂z is exact, or by Hutchinson's estimate with the signs ``noise [B, 2]``.
    """

    noise: Tensor | None

    def __init__(self, noise: Tensor | None = None, width: int = 64) -> None:
        super().__init__()
        sizes = (2, width, width, width, 2)
        self.layers = nn.ModuleList(ConcatSquash(a, b) for a, b in itertools.pairwise(sizes))
        self.register_buffer("noise", noise)

    def velocity(self, t: Tensor, z: Tensor) -> Tensor:
        first, *others = self.layers
        z = cast(Tensor, first(t, z))
        for layer in others:
            z = layer(t, torch.tanh(z))
        return z

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        t = t.to(y.dtype).reshape(-1, 1)
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            z = y[:, :2]
            if not z.requires_grad:
                z = z.detach().requires_grad_()
            dz = self.velocity(t, z)
            if self.noise is not None:
                (product,) = torch.autograd.grad(dz, z, self.noise, create_graph=keep)
                trace = (product * self.noise).sum(1, keepdim=True)
            else:
                rows = (
                    torch.autograd.grad(dz[:, k].sum(), z, create_graph=keep, retain_graph=True)[0][:, k]
                    for k in range(2)
                )
                trace = sum(rows, z.new_zeros(len(z)))[:, None]
        found = torch.cat([dz, -trace], 1)
        return found if keep else found.detach()


class Convolutions(nn.Module):
    """Chen et al. 2018: two 3×3 convolutions that see t as a channel, with group normalisation and ReLU."""

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(min(32, channels), channels) for _ in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(channels + 1, channels, 3, padding=1) for _ in range(2))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        channel = t.to(y.dtype).reshape(-1, 1, 1, 1).expand(len(y), 1, *y.shape[2:])
        for norm, conv in zip(self.norms, self.convs, strict=False):
            y = conv(torch.cat([torch.relu(norm(y)), channel], 1))
        return cast(Tensor, self.norms[2](y))
