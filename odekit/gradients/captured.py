"""Which tensors a vector field depends on, so that a gradient method with its own backward pass misses none.

Two searches are united. One looks at the code: the parameters of modules, and tensors in closures, partial arguments,
bound objects and globals that the function names. The other looks at one evaluation: every leaf of its autograd graph.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from types import CodeType
from typing import Any, Protocol, cast

import optree
import torch
from torch import Tensor, nn

from odekit.core import lanes
from odekit.core.times import Time
from odekit.errors import GradientError

_DEPTH = 4
_WIDTH = 1000
"""How far into nested things, and into one container, the search of the code goes."""


def named_in_code(f: Any) -> list[Tensor]:
    """Tensors that require grad and can be reached from ``f`` by looking at it."""
    found: dict[int, Tensor] = {}
    seen: set[int] = set()

    def visit(thing: Any, depth: int) -> None:
        if depth > _DEPTH or id(thing) in seen:
            return
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            if thing.requires_grad:
                found[id(thing)] = thing
        elif isinstance(thing, nn.Module):
            for parameter in thing.parameters():
                visit(parameter, 0)
            for module in thing.modules():
                for name, value in vars(module).items():
                    if not name.startswith("_"):
                        visit(value, depth + 1)
        else:
            for part in _parts(thing):
                visit(part, depth + 1)

    visit(f, 0)
    return list(found.values())


def _parts(thing: Any) -> Iterator[Any]:
    if isinstance(thing, functools.partial):
        yield from (thing.func, *thing.args, *thing.keywords.values())
    elif isinstance(thing, dict):
        yield from itertools.islice(thing.values(), _WIDTH)
    elif isinstance(thing, tuple | list | set | frozenset):
        yield from itertools.islice(thing, _WIDTH)
    elif inspect.ismethod(thing):
        yield from (thing.__self__, thing.__func__)
    elif inspect.isfunction(thing):
        for cell in thing.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # a cell that is not filled yet
                continue
        yield from thing.__defaults__ or ()
        yield from (thing.__kwdefaults__ or {}).values()
        yield from (thing.__globals__[name] for name in _names(thing.__code__) if name in thing.__globals__)
    elif not isinstance(thing, type) and not inspect.ismodule(thing) and hasattr(thing, "__dict__"):
        if hasattr(thing, "__wrapped__"):
            yield thing.__wrapped__
        yield from vars(thing).values()


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def leaves_of(outputs: Sequence[Tensor]) -> list[Tensor]:
    """The leaves that require grad in the autograd graph of ``outputs``."""
    found = {id(output): output for output in outputs if output.grad_fn is None and output.requires_grad}
    for node in nodes_of(outputs):
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            found[id(leaf)] = leaf
    return list(found.values())


def nodes_of(outputs: Iterable[Tensor]) -> Iterable[Any]:
    """The nodes of the autograd graph of ``outputs``."""
    seen = {output.grad_fn for output in outputs if output.grad_fn is not None}
    pending: list[Any] = list(seen)
    while pending:
        for parent, _ in pending.pop().next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                pending.append(parent)
    return seen


class Posed(Protocol):
    """What is to be solved, as far as it matters here: f, and where it can be called."""

    @property
    def field(self) -> Any: ...

    @property
    def y0(self) -> Tensor: ...

    @property
    def times(self) -> Sequence[Time]: ...

    @property
    def ts(self) -> Tensor: ...


class Dependencies:
    """What a backward pass must differentiate beside the state and the times.

    Attributes:
        tensors: the tensors themselves: first those in ``args``, then leaves that f captures.
        f0: ``f(t0, y0)``, detached; a by-product of looking.
        needed: whether there is anything to differentiate with respect to, the state and the times included.

    Raises:
        GradientError: this happens inside a function that ``torch.func`` transforms.
    """

    def __init__(self, problem: Posed) -> None:
        if lanes.transformed():
            raise GradientError(
                "this gradient method has a backward pass of its own, which torch.func (grad, jvp, vmap, ...) cannot "
                "see into; use gradient='direct' there, whose steps are ordinary operations, or torch.no_grad() if no "
                "gradient is wanted"
            )
        leaves: list[Any]
        leaves, self._treespec = optree.tree_flatten(cast(Any, problem.field.args), none_is_leaf=True)
        self._args = leaves
        self._places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad]
        args = [leaves[i] for i in self._places]
        copies = self.copies(args)
        probe = self.field(problem, copies)
        with torch.enable_grad():
            y0 = problem.y0.detach().requires_grad_()
            f0 = probe(problem.times[0], y0)
        problem.field.count.nfe += probe.nfe
        self.f0 = f0.detach()
        passed_in = {id(tensor) for tensor in (*copies, y0)}
        captured = {id(leaf): leaf for leaf in leaves_of([f0]) if id(leaf) not in passed_in}
        for tensor in named_in_code(problem.field.f):
            if tensor.is_leaf and id(tensor) not in passed_in:
                captured.setdefault(id(tensor), tensor)
        self._captured = list(captured.values())
        self.tensors = [*args, *self._captured]
        self.needed = any(x.requires_grad for x in (problem.y0, problem.ts, *self.tensors))

    def copies(self, args: list[Tensor]) -> list[Tensor]:
        """Leaves with the values of ``args``, for one backward pass."""
        return [tensor.detach().requires_grad_() for tensor in args]

    def inputs(self) -> list[Tensor]:
        """What a backward pass differentiates with respect to, in the order of ``tensors``."""
        return [*self.copies([self._args[i] for i in self._places]), *self._captured]

    def field(self, problem: Posed, inputs: list[Tensor]) -> Any:
        """A fork of the field, with counters of its own, that sees ``inputs`` in place of the tensors in ``args``."""
        leaves = list(self._args)
        for place, tensor in zip(self._places, inputs, strict=False):
            leaves[place] = tensor
        return problem.field.fork(args=cast(tuple[Any, ...], optree.tree_unflatten(self._treespec, leaves)))

    def check_none_missed(self, outputs: Sequence[Tensor], known: Iterable[Tensor], method: str) -> None:
        """Raise GradientError if the graph of ``outputs`` has a leaf that is not among ``known``."""
        ids = {id(tensor) for tensor in known}
        missed = [leaf for leaf in leaves_of(outputs) if id(leaf) not in ids]
        if missed:
            shapes = ", ".join(str(tuple(leaf.shape)) for leaf in missed)
            raise GradientError(
                f"f uses {len(missed)} tensor(s) that need a gradient (shapes {shapes}) which gradient={method!r} did "
                "not find when the solve began, so their gradient would be missing; make them parameters of an "
                "nn.Module f, pass them through args=, or use gradient='direct'"
            )
