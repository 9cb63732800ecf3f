"""What a flow is a chain of."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Bijection(nn.Module, ABC):
    """An invertible map of vectors ``[B, D]`` whose Jacobian has a determinant that is cheap."""

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """From the data's side to the base's: ``z [B, D]`` and log |det ∂z/∂x| ``[B]``."""

    @abstractmethod
    def inverse(self, z: Tensor) -> Tensor:
        """The ``x [B, D]`` that goes to ``z``."""
