"""The parameters' part of an adjoint gradient, as an integral over the backward steps that were accepted."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from odekit.core.dense import Kept, Recorder
from odekit.core.field import Field
from odekit.core.integrate import around
from odekit.core.protocols import ODESolver
from odekit.core.sections import Stops
from odekit.gradients.products import added, vjp

Locate = Callable[[float, Tensor], tuple[Tensor, Tensor]]
"""The state of the trajectory and its adjoint at a time, from the backward solve's packed state there."""
Check = Callable[[Sequence[Tensor], Sequence[Tensor]], None]


@functools.cache
def gauss_legendre(order: int) -> tuple[tuple[float, float], ...]:
    """Nodes and weights on [0, 1], as few as make the quadrature of this order. m nodes have order 2m."""
    nodes, weights = np.polynomial.legendre.leggauss(max(1, (order + 1) // 2))
    return tuple(zip(((nodes + 1) / 2).tolist(), (weights / 2).tolist(), strict=True))


def keeps_up(solver: ODESolver) -> bool:
    """Whether the quadrature on the dense output of this solver converges at the order of its steps."""
    return solver.dense_order + 1 >= solver.order


class Quadrature(Recorder[Kept]):
    """-∫ aᵀ∂f/∂θ dt by Gauss-Legendre quadrature on the dense output of backward steps; their recorder, keeping none.

    A step costs one call of f a node, half as many as the order of the solver, beside what its dense output costs.
    Kidger, Chen & Lyons 2021, *Hey, that's not an ODE*, Section 3, have the argument that the integral needs no error
    control of its own: no other derivative depends on it.

    Attributes:
        sums: the integrals for ``inputs``; None for a tensor that f was not seen to depend on.
    """

    def __init__(
        self, field: Field, inputs: list[Tensor], order: int, stops: Stops, locate: Locate, check: Check
    ) -> None:
        super().__init__()
        self.field, self.inputs, self.stops, self.locate, self.check = field, inputs, stops, locate, check
        self.rule = gauss_legendre(order)
        self.sums: list[Tensor | None] = [None] * len(inputs)

    def add(self, kept: Kept) -> None:
        """Add what an accepted step contributes."""
        if not self.inputs:
            return
        step, length = kept.densified(), kept.t0 - kept.t1
        field = around(self.field, self.stops.section(kept.t0, kept.t1))
        for node, weight in self.rule:
            t = kept.t0 - node * length
            y, adjoint = self.locate(t, kept.solver.interpolate(step, node))
            with torch.enable_grad():
                y = y.detach().requires_grad_()
                dy = field(t, y)
            self.check([dy], [y, *self.inputs])
            if dy.requires_grad:
                cotangent = (length * weight) * adjoint
                grads = vjp([dy], [cotangent], [*self.inputs, *_too(y)])
                self.sums = [added(total, grad) for total, grad in zip(self.sums, grads, strict=False)]


def _too(y: Tensor) -> list[Tensor]:
    """What else to differentiate with respect to: nothing, or ``y`` if its memory is not laid out in order.

    PyTorch 2.13 crashes in the backward pass of group normalisation, channels last, if the input's gradient is not
    asked for.
    """
    return [] if y.is_contiguous() else [y]
