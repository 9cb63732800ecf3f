"""A solver whose steps are one graph each, made by ``torch.compile``: the stages and the scaled error."""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import math
import types
import warnings
import weakref
from collections.abc import Callable
from typing import Any, cast

import attrs
import numpy as np
import optree
import torch
from torch import Tensor, nn

from odekit.core import lanes
from odekit.core.chunk import Chunk
from odekit.core.graph_field import Expand, GraphField, Inlined
from odekit.core.protocols import ODESolver, Step, VectorField
from odekit.core.times import RowTimes, Time
from odekit.core.tolerance import Norm, Tolerance, rms
from odekit.core.wrapper import Wrapper
from odekit.errors import CompileWarning


@attrs.frozen(eq=False)
class CompiledStep(Wrapper):
    """Another solver, whose steps run as one compiled graph each.

    The graph has the stages and the scaled error in it. It is made once for a vector field, a solver, the dtypes and
    the number of axes; tolerances, times and arguments are its inputs, and so is the length of the first axis. The
    first two steps of a kind are taken without it too, to find out how often it calls f, and to see that the compiler
    got it right. The numbers are those of the solver to rounding.

    A Rosenbrock step has the Jacobian in its graph too; that of more than 16 numbers ties it to the number of rows. A
    step with a Newton iteration decides on the host how long that goes on, and cannot be a graph.

    Where no graph can be made of a step there is one :class:`~odekit.errors.CompileWarning`, which says why, and the
    steps are taken as if there were no compiler.

    Attributes:
        solver: the method.
        backend: what ``torch.compile`` makes of the graph.
        tolerance: of the solve that it is prepared for.
    """

    backend: str = "inductor"
    tolerance: Tolerance | None = None

    def prepared(self, tolerance: Tolerance) -> CompiledStep:
        return attrs.evolve(super().prepared(tolerance), tolerance=tolerance)

    def step(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Any) -> Step:
        return self._taken("step", f, t0, t1, y0, carry)

    def advance(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Any) -> Step:
        return self._taken("advance", f, t0, t1, y0, carry)

    def densify(self, f: VectorField, step: Step) -> Step:
        if step.dense is None:
            handed = None if self.memoryless else step.carry  # which stays as it is, or the step would be there
            step = self._taken("step", f, step.t0, step.t1, step.y0, handed)
        if step.dense is None:  # of a graph that gradients go through
            step = self.solver.step(f, step.t0, step.t1, step.y0, None)
        return self.solver.densify(f, step)

    def interpolate(self, step: Step, theta: Time) -> Tensor:
        return self.solver.interpolate(step, theta)

    def derivative(self, step: Step, theta: Time) -> Tensor:
        return self.solver.derivative(step, theta)

    def _taken(self, take: str, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Any) -> Step:
        inlined = None if lanes.transformed() or y0.device.type == "mps" else inlined_of(f)  # MPS has no float64
        if inlined is None or isinstance(t0, Tensor) or isinstance(t1, Tensor):
            step: Step = getattr(self.solver, take)(f, t0, t1, y0, carry)
            return step
        recorded = torch.is_grad_enabled() and (y0.requires_grad or self.memoryless)
        graph = graph_of(_stepped, inlined.owner, self.solver, self.backend, (take, carry is None), recorded, y0)
        if not graph.broken and lacks_expansion(inlined, self.solver):
            graph.give_up("an adjoint's augmented system is not taken to first order within a graph")
        if graph.calls is None or graph.broken:
            nfe, jacobians = f.nfe, f.jacobians  # type: ignore[attr-defined]
            step = getattr(self.solver, take)(f, t0, t1, y0, carry)
            graph.calls = f.nfe - nfe, f.jacobians - jacobians  # type: ignore[attr-defined]
            return step
        found = graph.run(self._arguments(take, inlined, t0, t1, y0, carry, not (recorded and self.memoryless)))
        if found is None:
            return self._taken(take, f, t0, t1, y0, carry)
        inlined.count(*graph.calls)
        y1, ratio, handed_on, dense = found
        if not graph.checked:
            step = getattr(self.solver, take)(f, t0, t1, y0, carry)
            if not graph.check(y1, step.y1):
                return step
        return Step(t0, t1, y0, y1, None, handed_on, dense, ratio=ratio)

    def _arguments(
        self, take: str, inlined: Inlined, t0: Any, t1: Any, y0: Tensor, carry: Any, dense: bool
    ) -> tuple[Any, ...]:
        tolerance = self.tolerance
        judged: tuple[Any, ...] = (None, None, None)
        if take == "step" and tolerance is not None:
            judged = tolerance.norm, like(tolerance.rtol, y0), like(tolerance.atol, y0)
        return (
            self.solver, take, inlined.call, inlined.args, inlined.layout, inlined.column, inlined.expand,
            _clock(t0, t1, *inlined.bounds, y0), y0, carry, dense, *judged,
        )  # fmt: skip


def _stepped(
    solver: ODESolver,
    take: str,
    call: Callable[..., Any],
    args: tuple[Any, ...],
    layout: Any,
    column: tuple[int, ...] | None,
    expand: Expand | None,
    clock: Tensor,
    y0: Tensor,
    carry: Any,
    dense: bool,
    norm: Norm | None,
    rtol: Tensor | None,
    atol: Tensor | None,
) -> tuple[Tensor, Tensor | None, Any, Any]:
    """What becomes a graph: the state, the scaled error, what is handed on, and what dense output needs if wanted."""
    t0, t1, low, high = clock.unbind(-1)
    field = GraphField(call, args, layout, column, low, high, y0.real.dtype, expand)
    step = getattr(solver, take)(field, t0, t1, y0, carry)
    ratio = None
    if norm is not None and rtol is not None and atol is not None and step.error is not None:
        with torch.no_grad():
            ratio = norm(step.error / (atol + rtol * torch.maximum(y0.abs(), step.y1.abs())))
    return step.y1, ratio, step.carry, step.dense if dense else None


def _clock(t0: Any, t1: Any, low: Any, high: Any, y: Tensor) -> Tensor:
    """The ends of the step and of the span in float64, ``[4]`` or ``[B, 1, ..., 1, 4]``."""
    if not isinstance(t0, RowTimes):
        return torch.from_numpy(np.array([t0, t1, low, high])).to(y.device)
    times = np.stack([t0.values, t1.values, low, high], -1)
    return torch.from_numpy(times).to(y.device).reshape(-1, *(1,) * (y.ndim - 1), 4)


def like(x: float | Tensor, y: Tensor) -> Tensor:
    """A tolerance as a tensor that goes with ``y``."""
    return x if isinstance(x, Tensor) else _number(x, y.real.dtype, y.device)


@functools.lru_cache(maxsize=64)
def _number(x: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.full((), x, dtype=dtype, device=device)


def inlined_of(f: VectorField) -> Inlined | None:
    """What a field hands over for a graph; None if it does not."""
    hand_over = getattr(f, "inlined", None)
    return None if hand_over is None else hand_over()


def lacks_expansion(inlined: Inlined, solver: ODESolver) -> bool:
    """Whether the solver needs derivatives of f that its form for graphs does not have."""
    return solver.implicit and inlined.expand is None


_NUMBERS = itertools.count()


class Graph:
    """Steps of one kind, compiled.

    Attributes:
        recorded: whether there will be gradients.
        calls: how often it calls f, and how often it takes Jacobians; None before that is known.
        hands_on: whether a step hands something on to the next one.
        broken: whether it could not be made.
        seen: whether it has run.
        checked: whether a state that it gave has been compared.
        derives: whether f takes derivatives by autograd.
    """

    def __init__(self, function: Any, name: str, backend: str, recorded: bool, options: dict[str, Any] | None) -> None:
        self.name, self.recorded = name, recorded
        self.calls: tuple[int, int] | None = None
        self.hands_on = False
        self.broken = False
        self.seen = self.checked = False
        self.derives = False
        # PyTorch keeps what it compiled, and limits its number, by code object; and what it has learnt about numbers
        # that change, such as those of tableaus, by the code's name.
        code = function.__code__.replace(co_name=f"{function.__name__}_{next(_NUMBERS)}")
        if recorded:  # several backward passes may go through what one step keeps
            setattr(importlib.import_module("torch._functorch.config"), "donated_buffer", False)  # noqa: B010
        own = types.FunctionType(code, function.__globals__, function.__name__)
        self._compiled = torch.compile(own, fullgraph=True, backend=backend, options=options)

    def check(self, found: Tensor, expected: Tensor) -> bool:
        """Whether the first state that the graph gave is the right one, to half of its digits; else it is given up."""
        self.checked = True
        found, expected = found.detach(), expected.detach()
        allowed = math.sqrt(torch.finfo(expected.dtype).eps) * (expected.abs() + rms(expected))
        if bool(((found - expected).abs() <= allowed).all()) or not bool(expected.isfinite().all()):
            return True
        self.give_up("compiled, it gives other numbers")
        return False

    def run(self, arguments: tuple[Any, ...]) -> Any:
        """What the graph gives; None if it cannot be made, of which the user is told."""
        if not self.seen:
            _let_grow(arguments)
        try:
            with contextlib.ExitStack() as around:
                if not self.seen or _derived(arguments):  # PyTorch looks at their .grad, and warns of that itself
                    around.enter_context(warnings.catch_warnings())
                    warnings.filterwarnings("ignore", "The .grad attribute")
                    warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)  # what the compiler imports
                if self.derives:
                    around.enter_context(torch._dynamo.config.patch({_DERIVING: True}))
                found = self._compiled(*arguments)
            self.seen = True
            return found
        except Exception as error:
            if not _by_the_compiler(error):
                raise
            if not self.derives and hasattr(torch._dynamo.config, _DERIVING) and _DERIVING in str(error):
                self.derives = True
                return self.run(arguments)
            self.give_up(_first_line(error))
            return None

    def give_up(self, why: str) -> None:
        """Do without, and tell the user."""
        self.broken = True
        warnings.warn(
            f"the step of solver {self.name!r} on this f could not be compiled, and is taken without: {why}",
            CompileWarning,
            stacklevel=3,
        )


def _derived(arguments: tuple[Any, ...]) -> bool:
    """Whether there are tensors among the arguments that follow from others, with gradients."""
    leaves = optree.tree_leaves(cast(Any, arguments), none_is_leaf=True)
    return any(isinstance(x, Tensor) and x.requires_grad and not x.is_leaf for x in leaves)


def _let_grow(arguments: tuple[Any, ...]) -> None:
    """Have the graph take any length of the first axis."""
    for tensor in optree.tree_leaves(cast(Any, arguments), none_is_leaf=True):
        if isinstance(tensor, Tensor) and tensor.ndim > 1 and tensor.shape[0] > 1:
            torch._dynamo.maybe_mark_dynamic(tensor, 0)


_DERIVING = "trace_autograd_ops"
"""PyTorch's setting that lets ``torch.autograd.grad`` inside of f become part of a graph, where it has that."""


def _by_the_compiler(error: Exception) -> bool:
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor", "torch.fx"))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2]):.300}"


_GRAPHS: weakref.WeakKeyDictionary[Any, dict[Any, Graph]] = weakref.WeakKeyDictionary()
"""Compiled steps, as long as the f lives that they were made for: an ``nn.Module``, or the code of a function."""


def graph_of(
    function: Callable[..., Any], f: Callable[..., Any], solver: ODESolver, backend: str, kind: Any, recorded: bool,
    y0: Tensor, options: dict[str, Any] | None = None,
) -> Graph:  # fmt: skip
    """The graph of ``function`` for this f and solver, which is made once; ``kind`` tells it from others."""
    if isinstance(f, types.MethodType):
        owner, method = f.__self__, f.__func__
    else:
        owner, method = f, None
    if isinstance(owner, types.FunctionType):
        owner = owner.__code__
    elif not isinstance(owner, nn.Module):
        owner = type(owner)
    length = solver.count if isinstance(solver, Chunk) else 1
    key = (method, type(solver), solver.name, length, backend, kind, recorded, y0.dtype, y0.ndim, y0.device)
    graphs = _GRAPHS.setdefault(owner, {})
    if key not in graphs:
        graphs[key] = Graph(function, solver.name, backend, recorded, options)
    return graphs[key]
