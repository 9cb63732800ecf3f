"""What gradient methods are tried on: dynamics with tensors of every origin, and the gradients of a loss on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from odekit.core.protocols import GradientMethod
from odekit.core.solution import Solution
from odekit.solving import solve
from odekit.testing.measure import apart, difference
from odekit.testing.problems import DOUBLE

COARSE: Mapping[str, Any] = {"solver": "rk4", "step_size": 0.21, "rtol": 1e-13, "atol": 1e-14}
"""Steps so long that the gradient of the computed numbers is not that of the ODE."""
FINE: Mapping[str, Any] = {"solver": "dopri5", "step_size": 0.02}
"""Steps so short that it is, to eleven digits."""
SETTLED: Mapping[str, Any] = {"solver": "dopri5", "rtol": 1e-9, "atol": 1e-11}
"""For the long way to a steady state."""


class Net(nn.Module):
    """A vector field with a tied, a frozen and a scalar parameter; contracting, so that it has a steady state."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(0.5 * torch.randn(shape, dtype=DOUBLE, generator=generator))

        self.inner, self.outer, self.bias = parameter(2, 4), parameter(4, 2), parameter(4)
        self.again = self.inner
        self.gain = nn.Parameter(torch.tensor(0.7, dtype=DOUBLE))
        self.frozen = nn.Parameter(torch.full((2,), 0.3, dtype=DOUBLE), requires_grad=False)

    def forward(self, y: Tensor, drive: Tensor) -> Tensor:
        hidden = torch.tanh(y @ self.inner + self.bias) + drive * torch.tanh((y + self.frozen) @ self.again)
        return self.gain * (hidden @ self.outer) - y


@attrs.frozen(eq=False)
class Case:
    """A loss on a solve, as a function of tensors of every origin.

    Attributes:
        steady: whether the solve goes on until nothing changes any more, and f does not depend on time.
        net: owns the parameters among the inputs.
        inputs: the initial state, an argument, a captured tensor, the times (unless steady), and the parameters.
    """

    steady: bool
    net: Net
    inputs: dict[str, Tensor]

    @classmethod
    def fresh(cls, steady: bool = False) -> Case:
        """The same case each time, with tensors of its own."""
        generator, net = torch.Generator().manual_seed(1), Net()
        given = {
            "y0": torch.randn(3, 2, dtype=DOUBLE, generator=generator),
            "argument": torch.randn(2, dtype=DOUBLE, generator=generator),
            "captured": 0.3 * torch.randn(2, 2, dtype=DOUBLE, generator=generator),
        }
        if not steady:
            given["times"] = torch.tensor([0.2, 0.57, 1.0], dtype=DOUBLE)
        leaves = {name: value.requires_grad_() for name, value in given.items()}
        return cls(steady, net, {**leaves, **{n: p for n, p in net.named_parameters() if p.requires_grad}})

    def solve(self, method: GradientMethod | str, options: Mapping[str, Any], stretch: float = 1.0) -> Solution:
        """Solve with a gradient method; ``stretch`` is what fixed steps are multiplied with."""
        moved = self.inputs["captured"].sin()  # no leaf

        def f(t: Tensor, y: Tensor, argument: Tensor) -> Tensor:
            drive = torch.ones_like(t) if self.steady else torch.sin(3 * t)
            out: Tensor = self.net(y, drive) + torch.tanh(y @ moved) * 0.5 + torch.cos(argument)
            return out

        times = [0.0, 40.0] if self.steady else self.inputs["times"]
        options = dict(options)
        if "step_size" in options:
            options["step_size"] = stretch * options["step_size"]
        return solve(f, self.inputs["y0"], times, args=(self.inputs["argument"],), gradient=method, **options)

    def loss(self, solution: Solution) -> Tensor:
        """A scalar that every output takes part in; of a steady state that is the last one alone."""
        ys = solution.y1 if self.steady else solution.ys
        weights = torch.linspace(0.5, 1.5, ys.numel(), dtype=DOUBLE).reshape(ys.shape)
        return (weights * ys).sum() + solution.y1.square().sum()

    def gradients(self, method: GradientMethod | str, options: Mapping[str, Any]) -> dict[str, Tensor]:
        """The gradient of the loss by input; zeros where there is no connection."""
        loss = self.loss(self.solve(method, options))
        found = torch.autograd.grad(loss, list(self.inputs.values()), allow_unused=True)
        pairs = zip(self.inputs.items(), found, strict=True)
        return {name: torch.zeros_like(x) if grad is None else grad for (name, x), grad in pairs}

    def slopes(self, method: GradientMethod | str, options: Mapping[str, Any]) -> dict[str, tuple[Tensor, float]]:
        """By input a direction, and how fast the loss changes along it, by differences.

        Times move and stretch, and the grid of steps with them.
        """
        return {name: self._slope(name, method, options) for name in self.inputs}

    def _slope(self, name: str, method: GradientMethod | str, options: Mapping[str, Any]) -> tuple[Tensor, float]:
        value = self.inputs[name]
        start = value.detach().clone()
        way = torch.randn(start.shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))
        if name == "times":
            way = 0.3 + 0.4 * start

        def moved(size: float) -> float:
            with torch.no_grad():
                value.copy_(start + size * way)
                return float(self.loss(self.solve(method, options, 1 + 0.4 * size if name == "times" else 1.0)))

        slope = difference(moved)
        with torch.no_grad():
            value.copy_(start)
        return way, slope


def largest_gap(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, float]:
    """How far gradients are apart, by input."""
    return {name: apart(found[name], expected[name]) for name in expected}


def along(found: Mapping[str, Tensor], slopes: Mapping[str, tuple[Tensor, float]]) -> dict[str, float]:
    """How far gradients are from differences, by input."""
    return {
        name: abs(float((found[name] * way).sum()) - slope) / max(abs(slope), 1e-3)
        for name, (way, slope) in slopes.items()
    }


def worst_of(gaps: Mapping[str, float]) -> str:
    """The largest of these numbers, with its name."""
    name = max(gaps, key=lambda key: gaps[key])
    return f"{gaps[name]:.1e} ({name})"
