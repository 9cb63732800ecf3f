"""Looking at a plugin while it works: what it asks of f, what it changes, what it keeps."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from odekit.core.field import Field
from odekit.core.state import TensorLayout
from odekit.core.times import Time


class Watched(Field):
    """A field that notes every time at which it is asked, before anything is done to keep it inside the span."""

    def __init__(self, f: Callable[..., Tensor], y0: Tensor, span: tuple[float, float]) -> None:
        super().__init__(f, (), TensorLayout(y0.shape), y0, span)
        self.asked: list[float] = []

    def __call__(self, t: Time, y: Tensor) -> Tensor:
        self.asked.append(_number(t))
        return super().__call__(t, y)

    def times(self, values: Sequence[Time]) -> Sequence[Tensor]:
        self.asked.extend(map(_number, values))
        return super().times(values)

    def excess(self, span: tuple[float, float]) -> float:
        """How far beyond a span the farthest of these times lies; 0 for what is rounding."""
        low, high = min(span), max(span)
        rounding = 8 * math.ulp(max(abs(low), abs(high)))
        beyond = max((max(low - t, t - high) for t in self.asked), default=0.0)
        return beyond if beyond > rounding else 0.0


def _number(t: Time) -> float:
    return float(t.detach() if isinstance(t, Tensor) else t)  # type: ignore[arg-type]


class Unending(Exception):
    """f was called more often than any solve of such a problem needs."""


class Counted:
    """``f`` with a count of its calls, and an end to them."""

    def __init__(self, f: Callable[..., Any], most: int = 100_000) -> None:
        self.f = f
        self.most = most
        self.calls = 0

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        if self.calls > self.most:
            raise Unending(f"f was called more than {self.most:,} times")
        return self.f(*args)


def snapshot(thing: Any) -> dict[str, Any]:
    """Every number, tensor and array reached from an object, copied, by where it is."""
    return dict(_leaves(thing, "", set()))


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Where two snapshots differ."""
    places = [*before, *(place for place in after if place not in before)]
    return [p for p in places if p not in before or p not in after or not _same(before[p], after[p])]


def _leaves(thing: Any, place: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if isinstance(thing, Tensor):
        yield place, thing.detach().clone()
    elif isinstance(thing, np.ndarray):
        yield place, thing.copy()
    elif thing is None or isinstance(thing, bool | int | float | complex | str | bytes):
        yield place, thing
    elif id(thing) not in seen:
        seen.add(id(thing))
        for name, part in _parts(thing):
            yield from _leaves(part, f"{place}{name}", seen)


def _parts(thing: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(thing, Mapping):
        yield from ((f"[{key!r}]", value) for key, value in thing.items())
    elif isinstance(thing, list | tuple | set | frozenset):
        yield from ((f"[{index}]", value) for index, value in enumerate(thing))
    elif not isinstance(thing, type) and not callable(thing):
        if attrs.has(type(thing)):
            yield from ((f".{field.name}", getattr(thing, field.name, None)) for field in attrs.fields(type(thing)))
        yield from ((f".{name}", value) for name, value in getattr(thing, "__dict__", {}).items())


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        alike = isinstance(other, Tensor) and one.shape == other.shape and one.dtype == other.dtype
        return alike and bool(((one == other) | (one.isnan() & other.isnan())).all())
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")
    return type(one) is type(other) and (one == other or one != one)


class Dtypes(TorchDispatchMode):
    """Notes the dtypes that operations give."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.seen.update(leaf.dtype for leaf in _tensors(out))
        return out


class Ledger(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, for as long as they live.

    Attributes:
        held: now.
        peak: at most.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = 0
        self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in _tensors(out):
            self._note(leaf.untyped_storage())
        return out

    def _note(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def gone(_: Any) -> None:
            self.held -= size
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, gone)
        self.held += size
        self.peak = max(self.peak, self.held)


def _tensors(out: Any) -> Iterator[Tensor]:
    for leaf in out if isinstance(out, tuple | list) else (out,):
        if isinstance(leaf, Tensor):
            yield leaf
