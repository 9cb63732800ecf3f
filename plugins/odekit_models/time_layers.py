"""Linear layers that know the time, and networks made of them: vector fields ``f(t, x)`` on vectors ``[B, D]``.

With ``L`` linear in x, σ the logistic function, and w, b, v learnt vectors:

============  ==============================================================================================
ignore        L(x)
concat        L([x, t])
concatcoord   L([x, t]): the same. What it adds on images is the coordinates of each pixel; those of a vector's
              entries are constants, and a full linear layer has them in its bias already.
squash        L(x) σ(w t + b)
concatsquash  L(x) σ(w t + b) + v t
blend         (1 - t) L₀(x) + t L₁(x)
hyper         L_t(x), with weights and bias from a small network of t
============  ==============================================================================================
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class TimeVector(nn.Module):
    """The vector ``w t + b``, or ``w t``."""

    def __init__(self, size: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size).uniform_(-1, 1))
        self.bias = nn.Parameter(torch.empty(size).uniform_(-1, 1)) if bias else None

    def forward(self, t: Tensor) -> Tensor:
        vector = self.weight * t
        return vector if self.bias is None else vector + self.bias


class Ignore(nn.Module):
    """``L(x)``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.linear(x)


class Concat(nn.Module):
    """``L([x, t])``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs + 1, outputs)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.linear(torch.cat([x, t.expand(x.shape[0], 1)], dim=1))


class Squash(nn.Module):
    """``L(x) σ(w t + b)``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.gate = TimeVector(outputs)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.linear(x) * torch.sigmoid(self.gate(t))


class ConcatSquash(nn.Module):
    """``L(x) σ(w t + b) + v t``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.gate = TimeVector(outputs)
        self.shift = TimeVector(outputs, bias=False)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.linear(x) * torch.sigmoid(self.gate(t)) + self.shift(t)


class Blend(nn.Module):
    """``(1 - t) L₀(x) + t L₁(x)``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.start = nn.Linear(inputs, outputs)
        self.end = nn.Linear(inputs, outputs)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return torch.lerp(self.start(x), self.end(x), t)


class Hyper(nn.Module):
    """``L_t(x)``: weights and bias are outputs of a network of t, and begin in the range of a plain linear layer's."""

    hidden = 32

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.net = nn.Sequential(
            nn.Linear(1, self.hidden),
            nn.Tanh(),
            nn.Linear(self.hidden, self.hidden),
            nn.Tanh(),
            nn.Linear(self.hidden, (inputs + 1) * outputs),
        )
        bound = 1 / math.sqrt(inputs)
        weight, bias = list(self.net.parameters())[-2:]
        nn.init.uniform_(weight, -bound / self.hidden, bound / self.hidden)
        nn.init.uniform_(bias, -bound, bound)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        generated = self.net(t.reshape(1))
        weight, bias = generated.split([self.inputs * self.outputs, self.outputs])
        return nn.functional.linear(x, weight.reshape(self.outputs, self.inputs), bias)


LAYERS: dict[str, type[nn.Module]] = {
    "ignore": Ignore,
    "concat": Concat,
    "concatcoord": Concat,
    "squash": Squash,
    "concatsquash": ConcatSquash,
    "blend": Blend,
    "hyper": Hyper,
}

NONLINEARITIES: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
    "relu": nn.ReLU,
    "swish": nn.SiLU,
}


class TimeMLP(nn.Module):
    """A fully connected vector field on ``[B, size]`` with time-dependent layers.

    Args:
        size: of the state.
        hidden: widths of the hidden layers.
        layer: a name in :data:`LAYERS`.
        nonlinearity: between the layers, a name in :data:`NONLINEARITIES`.
    """

    def __init__(self, size: int, hidden: Sequence[int], layer: str, nonlinearity: str) -> None:
        super().__init__()
        make = LAYERS[layer]
        self.layers = nn.ModuleList(make(*ends) for ends in itertools.pairwise([size, *hidden, size]))
        self.nonlinearity = NONLINEARITIES[nonlinearity]()

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.nonlinearity(layer(t, x))
        return self.layers[-1](t, x)
