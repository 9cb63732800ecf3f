"""Five problems whose gradients are measured: y0, parameters and a span, in float64."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import torch
from torch import Tensor

F = Callable[..., Tensor]


@attrs.frozen(eq=False)
class GradientProblem:
    """The loss is the sum of the squares of y at five times, differentiated with respect to y0 and the parameters."""

    f: F
    y0: Tensor
    parameters: tuple[Tensor, ...]
    t1: float

    @property
    def times(self) -> Tensor:
        return torch.linspace(0, self.t1, 5, dtype=torch.float64)


def _numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _drawn(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def linear(t: Tensor, y: Tensor, matrix: Tensor) -> Tensor:
    return y @ matrix.T


def predators(t: Tensor, y: Tensor, rates: Tensor) -> Tensor:
    """Lotka & Volterra."""
    prey, hunters = y.unbind(-1)
    return torch.stack(
        [rates[0] * prey - rates[1] * prey * hunters, rates[2] * prey * hunters - rates[3] * hunters], -1
    )


def duffing(t: Tensor, y: Tensor, p: Tensor) -> Tensor:
    """A driven, damped oscillator with a cubic spring."""
    x, v = y.unbind(-1)
    return torch.stack([v, p[0] * torch.cos(p[1] * t) - p[2] * v - p[3] * x - p[4] * x**3], -1)


def van_der_pol(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
    x, v = y.unbind(-1)
    return torch.stack([v, mu * (1 - x**2) * v - x], -1)


def network(t: Tensor, y: Tensor, inner: Tensor, bias: Tensor, outer: Tensor) -> Tensor:
    return torch.tanh(y @ inner + bias * torch.cos(t)) @ outer


PROBLEMS: dict[str, GradientProblem] = {
    "linear": GradientProblem(linear, _numbers(1, -1, 0.5), (_drawn(3, 3, seed=1, scale=0.7),), 2.0),
    "Lotka-Volterra": GradientProblem(predators, _numbers(1, 1), (_numbers(1.5, 1, 1, 3),), 5.0),
    "Duffing": GradientProblem(duffing, _numbers(0.5, 0), (_numbers(0.4, 1.2, 0.3, -1, 1),), 8.0),
    "Van der Pol": GradientProblem(van_der_pol, _numbers(2, 0), (_numbers(0.5).squeeze(),), 6.0),
    "network": GradientProblem(
        network,
        _drawn(8, 4, seed=2),
        (_drawn(4, 16, seed=3, scale=0.7), _drawn(16, seed=4, scale=0.3), _drawn(16, 4, seed=5, scale=0.5)),
        3.0,
    ),
}
