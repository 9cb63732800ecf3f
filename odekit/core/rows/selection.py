"""Choosing rows of whatever has rows: tensors, host arrays, and what is nested of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor


class Selection:
    """Numbers of rows, on the host and on the device.

    Attributes:
        index: ``[K]``, int64, in any order.
        tensor: the same on the device of the state.
    """

    def __init__(self, index: np.ndarray, device: torch.device) -> None:
        self.index = np.array(index, dtype=np.int64)  # a copy: one number has a negative stride if it was reversed
        self.tensor = torch.from_numpy(self.index).to(device)

    def __len__(self) -> int:
        return len(self.index)

    def among(self, positions: Selection) -> Selection:
        """The rows at these positions of this selection."""
        return Selection(self.index[positions.index], self.tensor.device)


class Mismatch(TypeError):
    """Two things that should be nested alike are not."""


def pick(thing: Any, rows: Selection) -> Any:
    """These rows of all tensors and host arrays in ``thing``."""
    return _each(lambda x: x.index_select(0, rows.tensor), lambda x: x[rows.index], thing)


def choose(mask: np.ndarray, new: Any, old: Any) -> Any:
    """``new`` in the rows where ``mask`` is set, ``old`` elsewhere; both nested alike.

    Raises:
        Mismatch: they are not.
    """
    on_device: dict[torch.device, Tensor] = {}

    def tensors(a: Tensor, b: Tensor) -> Tensor:
        if a.device not in on_device:
            on_device[a.device] = torch.from_numpy(mask).to(a.device)
        return torch.where(on_device[a.device].reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    def arrays(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.where(mask.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return _each(tensors, arrays, new, old)


def put(rows: Selection, new: Any, old: Any) -> Any:
    """``old`` with ``new``, which has as many rows as the selection, in these rows; both nested alike.

    Raises:
        Mismatch: they are not.
    """

    def arrays(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        copy = b.copy()
        copy[rows.index] = a
        return copy

    return _each(lambda a, b: b.index_copy(0, rows.tensor, a), arrays, new, old)


def _each(tensors: Callable[..., Tensor], arrays: Callable[..., np.ndarray], *things: Any) -> Any:
    """The things joined leaf by leaf; what is neither nested nor has rows is taken from the first.

    None, in a carry, is what the solver will find out anew, so that None and anything else make None.
    """
    first = things[0]
    if any(thing is None for thing in things):
        return None
    if isinstance(first, Tensor):
        _alike(Tensor, things)
        return tensors(*things) if first.ndim else first
    if isinstance(first, np.ndarray):
        _alike(np.ndarray, things)
        return arrays(*things) if first.ndim else first
    _alike(type(first), things)
    if isinstance(first, dict):
        return {key: _each(tensors, arrays, *(thing[key] for thing in things)) for key in first}
    if isinstance(first, tuple | list):
        if len({len(thing) for thing in things}) > 1:
            raise Mismatch
        parts = [_each(tensors, arrays, *some) for some in zip(*things, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    if attrs.has(type(first)):
        names = [field.name for field in attrs.fields(type(first)) if field.init]
        parts = [_each(tensors, arrays, *(getattr(thing, name) for thing in things)) for name in names]
        return attrs.evolve(first, **dict(zip((name.lstrip("_") for name in names), parts, strict=True)))
    return first


def _alike(kind: type, things: tuple[Any, ...]) -> None:
    if not all(isinstance(thing, kind) for thing in things):
        raise Mismatch
