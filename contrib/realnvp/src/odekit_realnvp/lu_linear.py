"""An invertible linear map that is kept as its LU decomposition."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from odekit_realnvp.bijection import Bijection


class LULinear(Bijection):
    """``z = P L U x``, at first a random rotation. Kingma & Dhariwal 2018, *Glow*, section 3.2, (10) and (11).

    P is a permutation and stays; L has ones on its diagonal; that of U keeps its signs, and its logarithm is learned,
    so that the map is always invertible and log |det| is a sum.

    Attributes:
        factors: ``[D, D]``: L below the diagonal, U above, log |diag U| on it.
    """

    rows: Tensor
    back: Tensor
    signs: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(size, size)).Q
        permutation, lower, upper = torch.linalg.lu(rotation)
        rows = permutation.argmax(1)
        self.register_buffer("rows", rows)
        self.register_buffer("back", rows.argsort())
        self.register_buffer("signs", upper.diagonal().sign())
        self.factors = nn.Parameter(lower.tril(-1) + upper.triu(1) + upper.diagonal().abs().log().diag())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper = self._triangles()
        z = (x @ upper.T @ lower.T)[:, self.rows]
        return z, self.factors.diagonal().sum().expand(len(x))

    def inverse(self, z: Tensor) -> Tensor:
        lower, upper = self._triangles()
        y = torch.linalg.solve_triangular(lower, z[:, self.back].T, upper=False, unitriangular=True)
        x: Tensor = torch.linalg.solve_triangular(upper, y, upper=True).T
        return x

    def _triangles(self) -> tuple[Tensor, Tensor]:
        """L and U."""
        lower = self.factors.tril(-1) + torch.eye(len(self.factors)).to(self.factors)
        return lower, self.factors.triu(1) + (self.signs * self.factors.diagonal().exp()).diag()
