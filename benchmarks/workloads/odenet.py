"""A training step of a whole ODENet classifier: stem, ODE block and head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.workloads.fields import Convolutions
from benchmarks.workloads.work import Work, span

ROWS, CHANNELS = 32, 64


class Head(nn.Module):
    """Pooling, logits, and the cross entropy with the batch's labels."""

    labels: Tensor

    def __init__(self, labels: Tensor) -> None:
        super().__init__()
        self.norm, self.out = nn.GroupNorm(32, CHANNELS), nn.Linear(CHANNELS, 10)
        self.register_buffer("labels", labels)

    def forward(self, ys: Tensor) -> Tensor:
        features = torch.relu(self.norm(ys[-1])).mean((2, 3))
        return nn.functional.cross_entropy(self.out(features), self.labels)


def odenet() -> Work:
    torch.manual_seed(0)
    stem = nn.Sequential(
        nn.Conv2d(1, CHANNELS, 3), nn.GroupNorm(32, CHANNELS), nn.ReLU(),
        nn.Conv2d(CHANNELS, CHANNELS, 4, 2, 1), nn.GroupNorm(32, CHANNELS), nn.ReLU(),
        nn.Conv2d(CHANNELS, CHANNELS, 4, 2, 1),
    )  # fmt: skip
    images, labels = torch.rand(ROWS, 1, 28, 28), torch.randint(10, (ROWS,))
    return Work(
        "odenet", "ODENet training step, 32 images of MNIST's size", Convolutions(CHANNELS), images, span(),
        rtol=1e-3, atol=1e-3, gradient="checkpointed", stem=stem, loss=Head(labels),
    )  # fmt: skip


CASES = {"odenet": odenet}
