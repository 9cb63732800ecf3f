"""What a workload is: f, a start, times, and what is asked of the answer. The same for every competitor."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import attrs
import torch
from torch import Tensor, nn

Solve = Callable[[Tensor], Tensor]
"""From y0 to y at all output times, ``[T, ...]``; what a competitor brings."""


class SumOfSquares(nn.Module):
    """The loss Σ y(t1)²."""

    def forward(self, ys: Tensor) -> Tensor:
        return ys[-1].square().sum()


@attrs.frozen(eq=False)
class Work:
    """One timed pass: a solve, or with ``gradient`` a training step without the optimiser.

    Attributes:
        name: short, as given on the command line.
        title: what it is, in a line.
        f: the vector field, ``f(t, y, *args)``.
        y0: the start ``[B, ...]``, or what ``stem`` makes a start of.
        t: output times ``[T]``, or ``[B, T]`` where every row has times of its own.
        solver: ``"dopri5"``, ``"rk4"``, or ``"stiff"`` for whatever a library does best on stiff problems.
        rtol, atol: of adaptive solvers. ``steps``: how many, for a fixed step.
        gradient: ``""`` for none, ``"adjoint"`` for the adjoint ODE, ``"direct"`` or ``"checkpointed"`` for the exact
            gradient of the steps, kept whole or taken again.
        rows: whether every row may take steps of its own, by competitors that can.
        args: tensors for f; those with an entry for every row may be cut with the rows.
        stem, loss: what comes before and after the solve in a training step.
    """

    name: str
    title: str
    f: nn.Module
    y0: Tensor
    t: Tensor
    solver: str = "dopri5"
    rtol: float = 1e-6
    atol: float = 1e-6
    steps: int | None = None
    gradient: str = ""
    rows: bool = False
    args: tuple[Tensor, ...] = ()
    stem: nn.Module = attrs.field(factory=nn.Identity)
    loss: nn.Module = attrs.field(factory=SumOfSquares)

    @property
    def step_size(self) -> float | None:
        return None if self.steps is None else float(self.t[-1] - self.t[0]) / self.steps

    def parameters(self) -> Iterator[nn.Parameter]:
        for module in (self.stem, self.f, self.loss):
            yield from module.parameters()

    def once(self, solve: Solve) -> Tensor:
        """One pass: the states at the output times, or the loss, whose gradients are then in the parameters."""
        if not self.gradient:
            with torch.no_grad():
                return solve(self.stem(self.y0))
        for parameter in self.parameters():
            parameter.grad = None
        loss: Tensor = self.loss(solve(self.stem(self.y0)))
        loss.backward()
        return loss.detach()

    def answer(self, solve: Solve) -> Tensor:
        """What is compared with the reference, flat: the last states, or the gradients of all parameters."""
        found = self.once(solve)
        if not self.gradient:
            return found[-1].flatten()
        return torch.cat([p.grad.flatten() for p in self.parameters() if p.grad is not None])

    def to(self, device: str, dtype: torch.dtype | None = None) -> Work:
        """The same on another device, or in another precision."""

        def moved(x: Tensor) -> Tensor:
            return x.to(device, dtype) if x.is_floating_point() else x.to(device)

        f, stem, loss = (copy.deepcopy(module).to(device, dtype) for module in (self.f, self.stem, self.loss))
        y0, args = moved(self.y0), tuple(moved(x) for x in self.args)
        return attrs.evolve(self, f=f, stem=stem, loss=loss, y0=y0, args=args, t=self.t.to(device))


def span(t1: float = 1.0) -> Tensor:
    return torch.tensor([0.0, t1], dtype=torch.float64)
