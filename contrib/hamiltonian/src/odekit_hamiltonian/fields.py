"""Vector fields that follow from one function of the state, by differentiating it.

``torch.func`` does so, and therefore inside other transforms and gradient methods too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Function = Callable[[Tensor, Tensor], Tensor]
"""Of positions and momenta, or velocities: ``[..., n]`` twice to ``[...]``, row by row."""


class HamiltonianField(nn.Module):
    """Hamilton's equations, dq/dt = ∂H/∂p, dp/dt = -∂H/∂q, for a state ``[..., 2n]``, which is [q | p].

    Greydanus et al. 2019, *Hamiltonian neural networks*, (1).
    """

    def __init__(self, energy: Function) -> None:
        super().__init__()
        self.energy = energy

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        q, p = y.chunk(2, -1)
        by_q, by_p = torch.func.grad(lambda q, p: self.energy(q, p).sum(), argnums=(0, 1))(q, p)
        return torch.cat([by_p, -by_q], -1)


class LagrangianField(nn.Module):
    """The Euler-Lagrange equations for a state ``[..., 2n]``, which is [q | q̇].

    q̈ = (∇q̇ ∇q̇ᵀ L)⁻¹ [∇q L - (∇q ∇q̇ᵀ L) q̇]. Cranmer et al. 2020, *Lagrangian neural networks*, (6).
    """

    def __init__(self, lagrangian: Function) -> None:
        super().__init__()
        self.lagrangian = lagrangian

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        rows = y.reshape(-1, y.shape[-1])
        q, v = rows.chunk(2, -1)
        mass, force = torch.func.vmap(self._equation)(q, v)
        acceleration = torch.linalg.solve(mass, force.unsqueeze(-1)).squeeze(-1)
        return torch.cat([v, acceleration], -1).reshape(y.shape)

    def _equation(self, q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The matrix ``[n, n]`` and the right-hand side ``[n]`` of the equations for q̈."""
        momentum = torch.func.grad(self.lagrangian, argnums=1)
        by_q = torch.func.grad(self.lagrangian, argnums=0)(q, v)
        mixed, mass = torch.func.jacrev(momentum, argnums=(0, 1))(q, v)
        return mass, by_q - mixed @ v


class PlainField(nn.Module):
    """What knows nothing of mechanics: dy/dt is a network of y."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        dy: Tensor = self.net(y)
        return dy
