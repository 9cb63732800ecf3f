"""Random changes to training batches."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor, nn


@attrs.frozen
class RandomCrop:
    """Images padded on all sides, then cut back to their size at a random place, each image at its own.

    Attributes:
        padding: pixels added on each side.
        fill: the value of the added pixels.
    """

    padding: int
    fill: float = 0.0

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """``x`` and what is returned: ``[B, C, H, W]``. The generator may live on another device than ``x``."""
        batch, _, height, width = x.shape
        padded = nn.functional.pad(x, (self.padding,) * 4, value=self.fill)
        span = 2 * self.padding + 1
        offsets = torch.randint(span, (2, batch, 1), generator=generator, device=generator.device).to(x.device)
        rows = offsets[0] + torch.arange(height, device=x.device)
        columns = offsets[1] + torch.arange(width, device=x.device)
        images = torch.arange(batch, device=x.device)[:, None, None]
        cropped = padded.permute(0, 2, 3, 1)[images, rows[:, :, None], columns[:, None, :]]
        return cropped.permute(0, 3, 1, 2).contiguous()
