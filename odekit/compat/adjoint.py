"""odeint_adjoint: gradients from a second solve backwards in time, with the options that torchdiffeq has for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
import optree
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from odekit.compat.call import Call, tolerance
from odekit.compat.dynamics import Dynamics
from odekit.compat.errors import as_assertions
from odekit.compat.methods import Method
from odekit.compat.norms import mixed
from odekit.compat.plans import Span
from odekit.core.callbacks import Callbacks
from odekit.core.field import Field
from odekit.core.first_only import first_only
from odekit.core.state import Layout, lay_out
from odekit.core.tolerance import checked
from odekit.gradients.augmented import Augmented, Parts

_SECOND = "odeint_adjoint has no second derivatives; use odeint"


@attrs.frozen(eq=False)
class Back:
    """The settings of the backward solve.

    Attributes:
        options: of the method. ``norm`` takes the tuple (0, y, dL/dy, one part for each parameter) of packed y; it is
            read when the backward pass runs.
    """

    method: Method
    rtol: Any
    atol: Any
    options: dict[str, Any]
    hooks: Callbacks


@attrs.frozen(eq=False)
class Task:
    """A forward call, and how to go back."""

    call: Call
    method: Method
    back: Back
    layout: Layout
    parameters: tuple[Tensor, ...]


def solve_with_adjoint(call: Call, method: Method, back: Back, parameters: tuple[Tensor, ...]) -> Any:
    """The states at the output times, whose gradients with respect to y0, t and ``parameters`` the adjoint gives."""
    packed, layout = lay_out(call.y0)
    inputs = (first_only(x, _SECOND) for x in (packed, call.t, *parameters))
    return layout.unpack(_Solve.apply(Task(call, method, back, layout, parameters), *inputs))


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, task: Task, y0: Tensor, t: Tensor, *parameters: Tensor) -> Tensor:
        with torch.no_grad():
            call = attrs.evolve(task.call, y0=task.layout.unpack(y0.detach()), t=t.detach())
            ys = task.method.solve(call).states
            packed = _packed(ys, y0)
        ctx.task = task
        ctx.adjoint_options = task.back.options
        ctx.save_for_backward(t, packed, *parameters)
        return packed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ys: Tensor) -> tuple[Any, ...]:
        t, ys, *_ = ctx.saved_tensors  # raises if one was changed in place since
        with as_assertions():
            return None, *_solve_back(ctx.task, t.detach(), ys, grad_ys, ctx.needs_input_grad[2])


def _packed(states: Any, y0: Tensor) -> Tensor:
    """States at all output times, nested, as one tensor ``[T, ...]`` of states packed as ``y0`` is."""
    leaves: list[Tensor] = optree.tree_leaves(states)
    if isinstance(states, Tensor):
        return states
    lead = (len(leaves[0]), *y0.shape[:-1])
    return torch.cat([leaf.reshape(*lead, leaf.numel() // math.prod(lead)) for leaf in leaves], -1)


def _solve_back(task: Task, t: Tensor, ys: Tensor, grad_ys: Tensor, time_gradient: bool) -> list[Tensor | None]:
    """The gradients with respect to y0, t and the parameters. Chen et al. 2018, *Neural ordinary differential
    equations*, Algorithm 1."""
    call, back, parameters = task.call, task.back, list(task.parameters)
    times = t.tolist()
    field = Field(Dynamics(call.func), (), task.layout, ys[0], (times[0], times[-1]))
    parts = Parts(ys[0], parameters)
    augmented = Augmented(field, parameters, parts, lambda outputs, known: None)
    rtol, atol = (
        parts.spread(task.layout.pack_tolerance(tolerance(value), "an adjoint tolerance", ys[0]))
        for value in (back.rtol, back.atol)
    )

    def opened(z: Tensor) -> tuple[Tensor, ...]:
        y, adjoint, integrals = parts.split(z)
        sizes = [parameter.numel() for parameter in parameters]
        shaped = (part.reshape(p.shape) for part, p in zip(integrals.split(sizes), parameters, strict=True))
        return z.new_zeros(()), y.reshape(parts.shape), adjoint.reshape(parts.shape), *shaped

    def norm(z: Tensor) -> Tensor:
        return torch.as_tensor(back.options["norm"](opened(z)), dtype=z.real.dtype, device=z.device).abs()

    allowed = checked(rtol, atol, ys.dtype, norm)
    hooks = back.hooks.on_packed(opened)
    grad_t = torch.zeros_like(t) if time_gradient else None
    adjoint, integrals = torch.zeros_like(ys[0]), parts.no_integrals()
    for i in range(len(times) - 1, 0, -1):
        adjoint = adjoint + grad_ys[i]
        if grad_t is not None:
            grad_t[i] = _moved(field, times[i], ys[i], grad_ys[i])
        z = parts.join(ys[i], adjoint, integrals)
        span = Span(call.func, ys[i], t[[i, i - 1]], times[i])
        z = back.method.solve_back(augmented, z, span, allowed, back.options, hooks)
        _, adjoint, integrals = parts.split(z)
        adjoint = adjoint.reshape(parts.shape)
    if grad_t is not None:
        grad_t[0] = -_moved(field, times[0], ys[0], adjoint)
    return [adjoint + grad_ys[0], grad_t, *parts.gradients(integrals)]


def _moved(field: Field, t: float, y: Tensor, cotangent: Tensor) -> Tensor:
    """How much the loss changes as the state at ``t`` moves along f."""
    with torch.no_grad():
        return (cotangent.conj() * field(t, y)).real.sum()


def adjoint_norm(options: Mapping[str, Any], state_norm: Callable[[Any], Any], y0: Any) -> Callable[..., Any]:
    """The norm of (0, y, dL/dy, *parameters) that the adjoint's options ask for, y being packed."""
    _, layout = lay_out(y0)
    wanted = options.get("norm")

    def of_state(packed: Tensor) -> Any:
        return state_norm(layout.unpack(packed))

    if wanted is None:
        return lambda z: _largest(z[0].abs(), of_state(z[1]), of_state(z[2]), mixed(z[3:]))
    if wanted == "seminorm":
        return lambda z: _largest(z[0].abs(), of_state(z[1]), of_state(z[2]))
    if isinstance(y0, Tensor):
        return wanted
    return lambda z: wanted((z[0], *layout.unpack(z[1]), *layout.unpack(z[2]), *z[3:]))


def _largest(first: Tensor, *others: Any) -> Tensor:
    return torch.stack([first, *(torch.as_tensor(size).to(first) for size in others)]).amax()


def parameters_of(func: nn.Module) -> Iterable[Tensor]:
    """The parameters of a module, also of a replica within DataParallel, where they are plain attributes."""
    if not getattr(func, "_is_replica", False):
        return func.parameters()
    return (
        value
        for module in func.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and value.requires_grad
    )
