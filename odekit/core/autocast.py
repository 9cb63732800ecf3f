"""Mixed precision around a solve: f gets it, whenever it is called; the solver's own numbers do not."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import attrs
import torch


@attrs.frozen
class Autocast:
    """The precision that ``torch.autocast`` asked for where a solve began.

    Casts of parameters are not cached, so that one made without gradients is never used where there are some.
    """

    device: str
    dtype: torch.dtype

    @staticmethod
    def ambient(device: str) -> Autocast | None:
        """What is asked for here and now; None if nothing is."""
        return Autocast(device, torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else None

    def entered(self) -> AbstractContextManager[None]:
        """A context in which the same is asked for."""
        return torch.autocast(self.device, dtype=self.dtype, cache_enabled=False)


def suspended(device: str) -> AbstractContextManager[None]:
    """A context in which no tensor on ``device`` is cast."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else contextlib.nullcontext()
