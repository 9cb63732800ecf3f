"""How much memory there is, and how much autograd keeps of one evaluation."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from odekit.gradients.captured import leaves_of

_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")
_UNKNOWN = 4 * 2**30
"""Bytes that a machine is taken to have free where it does not say."""


def free(device: torch.device) -> int:
    """Bytes that can still be had: of a CUDA device with what PyTorch holds in reserve, elsewhere of the machine."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return int(min(_of_machine(), _of_group()))


def _of_machine() -> int:
    try:
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 2**10
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return _UNKNOWN


def _of_group() -> int | float:
    """What the control group of a container leaves; infinite where there is no limit."""
    try:
        return int((_GROUP / "memory.max").read_text()) - int((_GROUP / "memory.current").read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return float("inf")


def kept_by(evaluate: Callable[[], Tensor], state: Tensor) -> int:
    """Bytes that autograd keeps of an evaluation until its backward pass, leaves other than ``state`` left out.

    They are read off the graph: hooks on saved tensors would not get along with an f that uses ``torch.func``.
    """
    with torch.enable_grad():
        value = evaluate()
    kept: dict[int, int] = {}
    for saved in _saved(value):
        kept[_place(saved)] = max(saved.numel() * saved.element_size(), kept.get(_place(saved), 0))
    shared = {_place(leaf) for leaf in leaves_of([value])} - {_place(state)}
    return sum(size for place, size in kept.items() if place not in shared)


def _saved(value: Tensor) -> Iterator[Tensor]:
    """What the nodes of the graph behind ``value`` keep."""
    pending: list[Any] = [value.grad_fn]
    seen = set(pending)
    while pending:
        node = pending.pop()
        if node is None:
            continue
        names = [name for name in dir(node) if name == "saved_tensors" or name.startswith("_saved_")]
        for thing in (getattr(node, name) for name in names):
            things = thing if isinstance(thing, tuple | list) else (thing,)
            yield from (x for x in things if isinstance(x, Tensor))
        for parent, _ in node.next_functions:
            if parent not in seen:
                seen.add(parent)
                pending.append(parent)


def _place(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def readable(size: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} GiB"
