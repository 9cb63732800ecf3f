"""How many accepted steps are gone back through in one piece: as many as their activations are small."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, cast

from torch import Tensor

from odekit.core.accepted import Accepted
from odekit.core.protocols import ODESolver
from odekit.gradients.captured import nodes_of

ACTIVATIONS = 4 * 2**20
"""Bytes that the activations of a piece of several steps may take; what fits into a cache."""
_MOST = 32


class Pieces:
    """Gathers steps, told from the last to the first, into pieces of consecutive ones.

    To go back through a step costs the host about as much as a few calls of a small f, and through several at once
    hardly more. The first piece is one step; by what its graph holds the length of the others is found.

    Args:
        solver: whose steps they are.
        limit: bytes of activations; 0 for one step at a time.
    """

    def __init__(self, solver: ODESolver, limit: int) -> None:
        self.solver, self.limit = solver, limit
        self.length = 1
        self.weighed = limit == 0

    def of(self, steps: Iterable[Accepted]) -> Iterator[list[Accepted]]:
        """The pieces, from the last to the first, each in the order of time."""
        piece: list[Accepted] = []
        for step in steps:
            piece.insert(0, step)
            if len(piece) >= self.length or not self._goes_on(step):
                yield piece
                piece = []
        if piece:
            yield piece

    def _goes_on(self, step: Accepted) -> bool:
        """Whether a step starts from what the one before it handed on, and nothing else."""
        return self.solver.memoryless or not (step.fresh or step.tries)

    def weigh(self, outputs: Sequence[Tensor], apart_from: Iterable[Tensor]) -> None:
        """Told the first piece, once: its graph, and the tensors in it that are there anyway."""
        if not self.weighed:
            self.length = max(1, min(_MOST, self.limit // max(_held(outputs, apart_from), 1)))
            self.weighed = True


def _held(outputs: Sequence[Tensor], apart_from: Iterable[Tensor]) -> int:
    """The bytes that the graph of ``outputs`` keeps alive."""
    there = {tensor.untyped_storage().data_ptr() for tensor in apart_from}
    sizes: dict[int, int] = {}
    for node in nodes_of(outputs):
        for tensor in _saved(node):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in there:
                sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


def _saved(node: Any) -> Iterator[Tensor]:
    """The tensors that a node of the graph holds for its backward pass, as PyTorch's notes on autograd show them."""
    found = [getattr(node, name, None) for name in _names(cast(Hashable, type(node)))]
    for thing in (*found, *getattr(node, "saved_tensors", ())):
        if isinstance(thing, Tensor):
            yield thing
        elif isinstance(thing, tuple):
            yield from (part for part in thing if isinstance(part, Tensor))


@functools.cache
def _names(kind: Hashable) -> tuple[str, ...]:
    return tuple(name for name in dir(kind) if name.startswith("_saved_"))
