"""Randomness that does not depend on history.

Every draw belongs to a purpose and a place (``"noise", step, rank``), and its generator is seeded by a digest of both
together with the run's seed. A step is thus a function of the parameters, the optimiser's state and its own number:
a resumed run draws what an uninterrupted one draws, with no generator state to carry over.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import numpy as np
import torch


@attrs.frozen
class Randomness:
    """The generators of one run."""

    seed: int

    def number(self, *key: str | int) -> int:
        """A whole number of 63 bits for a purpose and place."""
        digest = hashlib.sha256(repr((self.seed, *key)).encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1

    def generator(self, *key: str | int, device: torch.device | str = "cpu") -> torch.Generator:
        """A fresh generator for a purpose and place."""
        return torch.Generator(device).manual_seed(self.number(*key))

    def seed_globals(self, *key: str | int) -> None:
        """Seed the generators that code may use without being handed one: PyTorch's, NumPy's and Python's."""
        number = self.number("globals", *key)
        torch.manual_seed(number)
        np.random.seed(number % 2**32)
        random.seed(number)


@contextmanager
def restored(device: torch.device) -> Iterator[None]:
    """Give the global generators back their state at the end, for the caller's sake."""
    python, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)
