"""torchdiffeq's four functions and its table of methods, which ``odekit.compat.torchdiffeq`` exports."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from odekit.compat.adjoint import Back, adjoint_norm, parameters_of, solve_with_adjoint
from odekit.compat.call import Call, checked_times, in_one_dtype
from odekit.compat.dynamics import callbacks_of
from odekit.compat.errors import ArgumentError, as_assertions
from odekit.compat.events import EventFn, first_of, reached
from odekit.compat.methods import Adams, Adaptive, Fixed, FixedImplicit, Method, Native
from odekit.compat.norms import usual
from odekit.compat.scipy_solver import Scipy
from odekit.errors import nearest

SOLVERS: dict[str, Method] = {
    "dopri8": Adaptive("dopri8"),
    "dopri5": Adaptive("dopri5"),
    "tsit5": Adaptive("tsit5"),
    "bosh3": Adaptive("bosh3"),
    "fehlberg2": Adaptive("fehlberg2"),
    "adaptive_heun": Adaptive("heun"),
    "euler": Fixed("euler"),
    "midpoint": Fixed("midpoint"),
    "heun2": Fixed("heun"),
    "heun3": Fixed("heun3"),
    "rk4": Fixed("rk4-38"),
    "explicit_adams": Adams("adams_bashforth"),
    "implicit_adams": Adams("adams_bashforth_moulton"),
    "fixed_adams": Adams("adams_bashforth_moulton"),
    "implicit_euler": FixedImplicit("implicit_euler"),
    "implicit_midpoint": FixedImplicit("implicit_midpoint"),
    "trapezoid": FixedImplicit("trapezoid"),
    "radauIIA3": FixedImplicit("radau3"),
    "gl4": FixedImplicit("gauss4"),
    "radauIIA5": FixedImplicit("radau5"),
    "gl6": FixedImplicit("gauss6"),
    "sdirk2": FixedImplicit("sdirk2"),
    "trbdf2": FixedImplicit("trbdf2"),
    "scipy_solver": Scipy(),
}
"""Every method of torchdiffeq, by its name there."""

Func = Callable[[Tensor, Any], Any]


@as_assertions()
def odeint(
    func: Func,
    y0: Any,
    t: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: EventFn | None = None,
) -> Any:
    """Solve dy/dt = func(t, y), y(t[0]) = y0, and give y at every time in ``t``, with gradients through the solver.

    Args:
        func: the vector field. Its attributes ``callback_step``, ``callback_accept_step`` and ``callback_reject_step``,
            if there, are called as ``(t0, y0, dt)``.
        y0: a tensor, or a tuple of tensors.
        t: output times ``[T]``, strictly increasing or decreasing.
        rtol, atol: allowed local error: a number, a tensor like y0, or for a tuple one for each part.
        method: a name in ``SOLVERS``; ``"dopri5"`` by default.
        options: of the method. Those that it does not know are named in a warning.
        event_fn: ``event_fn(t, y)``; the solve ends where it, or the first of its numbers, crosses zero. Of ``t`` only
            the first entry and the direction then count.

    Returns:
        The states ``[T, ...]``, nested as y0; with ``event_fn`` the event's time and the states ``[2, ...]`` at the
        start and at the event, all of which can be differentiated.

    Raises:
        ArgumentError: an argument is wrong. It is a ValueError, a TypeError and an AssertionError.
        IntegrationError: the solve failed. It is an AssertionError and an ``odekit.errors.SolveError``.
    """
    chosen, call = _posed(func, y0, t, rtol, atol, method, options, event_fn)
    answer = chosen.solve(call)
    return answer.states if event_fn is None else (answer.event_t, answer.states)


@as_assertions()
def odeint_adjoint(
    func: Func,
    y0: Any,
    t: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: EventFn | None = None,
    adjoint_rtol: Any = None,
    adjoint_atol: Any = None,
    adjoint_method: str | None = None,
    adjoint_options: Mapping[str, Any] | None = None,
    adjoint_params: Iterable[Tensor] | None = None,
) -> Any:
    """As :func:`odeint`, with gradients from the adjoint ODE, solved backwards: memory does not grow with the steps.

    Args:
        adjoint_rtol, adjoint_atol, adjoint_method, adjoint_options: of the backward solve; by default those of the
            forward one, without its norm. ``adjoint_options["norm"]`` may be ``"seminorm"``, or take the tuple
            (0, y, dL/dy, one part for each parameter), y and dL/dy laid out part by part if y0 is a tuple.
        adjoint_params: what to differentiate with respect to beside y0 and t; the parameters of ``func`` by default.

    Raises:
        ArgumentError: also if func is no ``nn.Module`` and ``adjoint_params`` is not given.
    """
    if adjoint_params is None:
        if not isinstance(func, nn.Module):
            raise ArgumentError(
                f"func is a {type(func).__name__}, not an nn.Module, so its parameters are unknown; give "
                "adjoint_params=..., which may be ()"
            )
        adjoint_params = parameters_of(func)
    if adjoint_method not in (None, method) and options is not None and adjoint_options is None:
        raise ArgumentError(
            f"options belong to method={method!r}; for adjoint_method={adjoint_method!r} give adjoint_options too"
        )
    chosen, call = _posed(func, y0, t, rtol, atol, method, options, event_fn)
    inherited = {key: value for key, value in (options or {}).items() if key != "norm"}
    given = dict(inherited if adjoint_options is None else adjoint_options)
    everything = tuple(adjoint_params)
    parameters = tuple(parameter for parameter in everything if parameter.requires_grad)
    if len(parameters) < len(everything) and callable(given.get("norm")):
        warnings.warn(
            "some adjoint_params do not require grad; they are left out, and the adjoint norm does not see them",
            stacklevel=3,
        )
    name = adjoint_method or method or "dopri5"
    backwards = _named(name)
    given = backwards.known(name, given)
    given["norm"] = adjoint_norm(given, call.norm, call.y0)
    back = Back(
        backwards,
        call.rtol if adjoint_rtol is None else adjoint_rtol,
        call.atol if adjoint_atol is None else adjoint_atol,
        given,
        callbacks_of(func, backwards.callbacks, _time_dtype(t, given), name, "_adjoint"),
    )
    if call.event is None:
        return solve_with_adjoint(call, chosen, back, parameters)
    with torch.no_grad():
        found = chosen.solve(call).event_t
    assert found is not None
    times = torch.stack([call.t[0], found])
    states = solve_with_adjoint(attrs.evolve(call, t=times, event=None), chosen, back, parameters)
    return reached(func, call.event, found, states)


def odeint_event(
    func: Func,
    y0: Any,
    t0: Tensor,
    *,
    event_fn: EventFn,
    reverse_time: bool = False,
    odeint_interface: Callable[..., Any] = odeint,
    **kwargs: Any,
) -> tuple[Tensor, Any]:
    """Solve until ``event_fn(t, y)`` crosses zero.

    Returns the event's time and the states ``[2, ...]`` at the start and there. Both can be differentiated with respect
    to y0, t0 and whatever func and ``event_fn`` depend on.

    Args:
        t0: the initial time, a 0-d tensor or ``[1]``.
        reverse_time: solve towards smaller times.
        odeint_interface: :func:`odeint` or :func:`odeint_adjoint`; ``kwargs`` are passed on to it.
    """
    start = t0.reshape(-1)
    t = torch.cat([start, start.detach() + (-1.0 if reverse_time else 1.0)])
    return odeint_interface(func, y0, t, event_fn=event_fn, **kwargs)


@as_assertions()
def odeint_dense(
    func: Func,
    y0: Any,
    t0: Any,
    t1: Any,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[[Any], Any]:
    """The solution from ``t0`` to ``t1`` as a function of time.

    It takes a number or a 0-d tensor, or a tensor ``[K]`` and then gives states ``[K, ...]``; every method has one, in
    either direction of time, and y0 may be a tuple.
    """
    t = torch.stack([torch.as_tensor(value, dtype=getattr(t0, "dtype", None)).reshape(()) for value in (t0, t1)])
    chosen, call = _posed(func, y0, t, rtol, atol, method, options, None)
    if not isinstance(chosen, Native):
        raise ArgumentError(f"method={method!r} has no dense output; choose another one, such as 'dopri5'")
    return call.interpolant(chosen.plan({"interp": "cubic", **call.options}, call.span))


def _posed(
    func: Func,
    y0: Any,
    t: Any,
    rtol: Any,
    atol: Any,
    method: str | None,
    options: Mapping[str, Any] | None,
    event_fn: EventFn | None,
) -> tuple[Method, Call]:
    name = method or "dopri5"
    chosen = _named(name)
    known = chosen.known(name, options or {})
    t, y0 = checked_times(t, event_fn is not None), in_one_dtype(y0)
    event = None if event_fn is None else first_of(event_fn, t[0], y0)
    hooks = callbacks_of(func, chosen.callbacks, _time_dtype(t, known), name)
    return chosen, Call(func, y0, t, rtol, atol, known.get("norm", usual(y0)), known, hooks, event)


def _named(name: str) -> Method:
    if name not in SOLVERS:
        raise ArgumentError(f"method={name!r} is not known. {nearest(name, SOLVERS)}")
    return SOLVERS[name]


def _time_dtype(t: Tensor, options: Mapping[str, Any]) -> torch.dtype:
    """The dtype of the times that callbacks get."""
    return options.get("dtype", torch.float64 if t.device.type != "mps" else t.dtype)
