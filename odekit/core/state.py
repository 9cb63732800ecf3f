"""States: what the caller passes as ``y0``, and the one tensor that the numerics work on."""

from __future__ import annotations

import math
from typing import Any, Protocol

import attrs
import optree
import torch
from torch import Tensor

from odekit.core import lanes
from odekit.errors import DynamicsError, InputError


class Layout(Protocol):
    """How a state is packed. ``unpack`` also takes packed tensors with extra leading axes, such as ``[T, ...]``."""

    def pack(self, state: Any, name: str) -> Tensor: ...

    def unpack(self, packed: Tensor) -> Any: ...

    def pack_tolerance(self, value: Any, name: str, like: Tensor) -> float | Tensor: ...

    def with_rows(self, count: int) -> Layout:
        """The layout of a batched state with another number of rows."""
        ...


@attrs.frozen(eq=False)
class TensorLayout:
    """A single tensor is its own packing."""

    shape: torch.Size

    def pack(self, state: Any, name: str) -> Tensor:
        if not isinstance(state, Tensor):
            raise DynamicsError(f"{name} is a {type(state).__name__}; y is a tensor, so a tensor was expected")
        if state.shape != self.shape:
            raise DynamicsError(
                f"{name} has shape {tuple(state.shape)}; y has shape {tuple(self.shape)}, and so must dy/dt"
            )
        return state

    def unpack(self, packed: Tensor) -> Tensor:
        return packed

    def pack_tolerance(self, value: Any, name: str, like: Tensor) -> float | Tensor:
        if isinstance(value, Tensor):
            return _tolerance_leaf(value, name, self.shape, like)
        return _number(value, name)

    def with_rows(self, count: int) -> TensorLayout:
        return TensorLayout(torch.Size((count, *self.shape[1:])))


@attrs.frozen(eq=False)
class TreeLayout:
    """A nested state. Leaves with the same first axis are laid side by side as ``[B, features]``, others end to end."""

    treespec: optree.PyTreeSpec
    shapes: tuple[torch.Size, ...]
    batched: bool

    @property
    def template(self) -> Any:
        return optree.tree_unflatten(self.treespec, range(len(self.shapes)))

    @property
    def tails(self) -> list[torch.Size]:
        """The shape of each part, without the first axis where that is the one of the packed state."""
        return [shape[1:] if self.batched else shape for shape in self.shapes]

    def pack(self, state: Any, name: str) -> Tensor:
        leaves, treespec = optree.tree_flatten(state)
        if treespec != self.treespec:
            raise DynamicsError(f"{name} is nested as {_nesting(treespec)}; y is nested as {_nesting(self.treespec)}")
        for i, (leaf, shape) in enumerate(zip(leaves, self.shapes, strict=True)):
            where = f"{name}{self._path(i)}"
            if not isinstance(leaf, Tensor):
                raise DynamicsError(
                    f"{where} is a {type(leaf).__name__}; a tensor of shape {tuple(shape)} was expected"
                )
            if leaf.shape != shape:
                raise DynamicsError(f"{where} has shape {tuple(leaf.shape)}; y{self._path(i)} has shape {tuple(shape)}")
            if leaf.dtype != leaves[0].dtype or leaf.device != leaves[0].device:
                raise DynamicsError(
                    f"{where} is {leaf.dtype} on {leaf.device}, another part of it {leaves[0].dtype} on "
                    f"{leaves[0].device}; all parts of a state share one dtype and one device"
                )
        if self.batched:
            return torch.cat([leaf.reshape(len(leaf), math.prod(leaf.shape[1:])) for leaf in leaves], dim=1)
        return torch.cat([leaf.reshape(-1) for leaf in leaves])

    def unpack(self, packed: Tensor) -> Any:
        tails = self.tails
        parts = packed.split([math.prod(tail) for tail in tails], dim=-1)
        lead = packed.shape[:-1]
        return optree.tree_unflatten(self.treespec, [p.reshape(lead + t) for p, t in zip(parts, tails, strict=True)])

    def pack_tolerance(self, value: Any, name: str, like: Tensor) -> float | Tensor:
        if isinstance(value, int | float):
            return _number(value, name)
        leaves, treespec = optree.tree_flatten(value)
        if treespec != self.treespec:
            raise InputError(
                f"{name} is nested as {_nesting(treespec)}; give one number, or the nesting of y0: {self.treespec}"
            )
        full = [
            _tolerance_leaf(torch.as_tensor(leaf, dtype=like.real.dtype), f"{name}{self._path(i)}", shape, like)
            for i, (leaf, shape) in enumerate(zip(leaves, self.shapes, strict=True))
        ]
        return self.pack(
            optree.tree_unflatten(self.treespec, [leaf.expand(s) for leaf, s in zip(full, self.shapes, strict=True)]),
            name,
        )

    def with_rows(self, count: int) -> TreeLayout:
        return attrs.evolve(self, shapes=tuple(torch.Size((count, *shape[1:])) for shape in self.shapes))

    def _path(self, index: int) -> str:
        return "".join(f"[{key!r}]" for key in self.treespec.paths()[index])


def lay_out(y0: Any) -> tuple[Tensor, Layout]:
    """The packed ``y0`` and its layout.

    Raises:
        InputError: a part of ``y0`` is no tensor, has an integer dtype, or differs from the others in dtype or device.
    """
    if isinstance(y0, Tensor):
        _check_leaf(y0, "y0")
        return y0, TensorLayout(y0.shape)
    leaves, treespec = optree.tree_flatten(y0)
    if not leaves:
        raise InputError(
            f"y0 is {y0!r}, without a tensor in it; expected a tensor or a nested tuple, list or dict of tensors"
        )
    paths = ["y0" + "".join(f"[{key!r}]" for key in path) for path in treespec.paths()]
    for leaf, path in zip(leaves, paths, strict=True):
        _check_leaf(leaf, path)
    for leaf, path in zip(leaves, paths, strict=True):
        if leaf.dtype != leaves[0].dtype:
            raise InputError(f"{path} is {leaf.dtype}, {paths[0]} is {leaves[0].dtype}; give all parts of y0 one dtype")
        if leaf.device != leaves[0].device:
            raise InputError(
                f"{path} is on {leaf.device}, {paths[0]} on {leaves[0].device}; move all parts of y0 to one device"
            )
    shapes = tuple(leaf.shape for leaf in leaves)
    batched = all(len(shape) > 0 and shape[0] == shapes[0][0] for shape in shapes)
    layout = TreeLayout(treespec, shapes, batched)
    return layout.pack(y0, "y0"), layout


def _check_leaf(leaf: Any, name: str) -> None:
    if not isinstance(leaf, Tensor):
        raise InputError(
            f"{name} is a {type(leaf).__name__} ({leaf!r:.60}); expected a tensor, e.g. torch.as_tensor({name})"
        )
    if leaf.is_meta:
        raise InputError(f"{name} is on the meta device, which holds no numbers; move it to a real device")
    if not (leaf.is_floating_point() or leaf.is_complex()):
        raise InputError(
            f"{name} has dtype {leaf.dtype}; a state is floating-point or complex: use {name}.float() or .double()"
        )


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise InputError(f"{name}={value!r}: expected a finite number >= 0, such as 1e-6")
    return float(value)


def _tolerance_leaf(value: Tensor, name: str, shape: torch.Size, like: Tensor) -> Tensor:
    if value.is_complex() or not lanes.everywhere((value >= 0).all()):
        raise InputError(f"{name} has entries that are negative, NaN or complex; tolerances are real numbers >= 0")
    try:
        return value.detach().to(like.device, like.real.dtype).broadcast_to(shape)
    except RuntimeError:
        raise InputError(
            f"{name} has shape {tuple(value.shape)}, which does not broadcast to y0's {tuple(shape)}"
        ) from None


def _nesting(treespec: optree.PyTreeSpec) -> str:
    return str(treespec).removeprefix("PyTreeSpec(").removesuffix(")")
