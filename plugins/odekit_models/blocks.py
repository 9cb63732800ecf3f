"""The convolutional parts that the continuous and the discrete residual networks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def norm(width: int) -> nn.GroupNorm:
    """Group normalisation in up to 32 groups (Wu & He 2018, *Group normalization*)."""
    return nn.GroupNorm(min(32, width), width)


def conv_stem(channels: int, width: int) -> nn.Module:
    """Three convolutions that bring images of about 28 × 28 down by a factor of four."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3),
        norm(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 4, stride=2, padding=1),
        norm(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 4, stride=2, padding=1),
    )


def small_stem(channels: int, width: int) -> nn.Module:
    """Two convolutions that bring images of about 8 × 8 down by a factor of two."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        norm(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 4, stride=2, padding=1),
    )


def head(width: int, classes: int) -> nn.Module:
    """Features ``[B, width, H, W]`` to logits ``[B, classes]``: normalise, ReLU, average over pixels, linear."""
    return nn.Sequential(
        norm(width), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)
    )


class ResidualBlock(nn.Module):
    """``x + g(x)`` with normalisation and ReLU before each of g's two convolutions.

    He et al. 2016, *Identity mappings in deep residual networks*, figure 1 (b).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            norm(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            norm(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class TimeConv2d(nn.Module):
    """A 3 × 3 convolution of the state and of the time, which comes as one more channel of constant value."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width + 1, width, 3, padding=1)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        time = t.expand(x.shape[0], 1, *x.shape[2:])
        return self.conv(torch.cat([time, x], dim=1))


class ConvField(nn.Module):
    """The residual block's branch as a vector field ``f(t, x)``, with the time in its convolutions.

    Chen et al. 2018, *Neural ordinary differential equations*, Section 3; a third normalisation keeps dx/dt in scale.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = norm(width), norm(width), norm(width)
        self.conv1, self.conv2 = TimeConv2d(width), TimeConv2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        x = self.conv1(t, self.relu(self.norm1(x)))
        x = self.conv2(t, self.relu(self.norm2(x)))
        return self.norm3(x)
