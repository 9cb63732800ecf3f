"""Which samples are in which batch."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from odekit.errors import InputError
from odekit.runner.randomness import Randomness


@attrs.define
class Batches:
    """Training batches: in each epoch a new permutation, cut into whole batches, each shared out over the processes.

    What is left over at the end of an epoch sits that epoch out. The permutation depends on the seed and the number of
    the epoch alone. ``batch_size`` counts the samples of all processes together.
    """

    samples: int
    batch_size: int
    randomness: Randomness
    rank: int = 0
    world: int = 1
    _epoch: int = attrs.field(default=-1, init=False, repr=False)
    _order: Tensor = attrs.field(factory=lambda: torch.empty(0, dtype=torch.long), init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.samples < 1:
            raise InputError("the training part of the data is empty")
        self.batch_size = min(self.batch_size, self.samples)
        if self.batch_size % self.world:
            raise InputError(
                f"train.batch_size: {self.batch_size} samples cannot be shared equally by {self.world} processes; "
                f"use a multiple of {self.world}"
            )

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch."""
        return self.samples // self.batch_size

    def epoch(self, step: int) -> int:
        """The number of the epoch, from 0, in which a step falls."""
        return step // self.per_epoch

    def indices(self, step: int) -> Tensor:
        """This process's samples for a step."""
        epoch, batch = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._order = torch.randperm(self.samples, generator=self.randomness.generator("order", epoch))
            self._epoch = epoch
        share = self.batch_size // self.world
        start = batch * self.batch_size + self.rank * share
        return self._order[start : start + share]
