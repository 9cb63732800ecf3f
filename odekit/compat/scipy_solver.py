"""The method "scipy_solver": SciPy's solve_ivp, where SciPy is installed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from odekit.compat.call import Answer, Call, tolerance
from odekit.compat.dynamics import Dynamics
from odekit.compat.errors import ArgumentError, IntegrationError
from odekit.compat.methods import Method
from odekit.compat.plans import Span, number
from odekit.core.callbacks import Callbacks
from odekit.core.field import Field
from odekit.core.solution import Status
from odekit.core.state import lay_out
from odekit.core.tolerance import Tolerance
from odekit.errors import GradientError
from odekit.gradients.augmented import Augmented


@attrs.frozen
class Scipy(Method):
    """One of SciPy's methods, on the host in SciPy's precision, without a gradient of its own.

    ``odeint_adjoint`` works with it; a gradient through ``odeint`` is an error when it is asked for. Where
    ``min_step`` is too long for the tolerance, the states that SciPy does not reach are NaN, and a warning says why.
    """

    options = frozenset({"solver", "min_step", "max_step", "norm", "grid_points", "eps"})
    callbacks = frozenset()

    def solve(self, call: Call) -> Answer:
        if call.event is not None:
            raise ArgumentError("method='scipy_solver' finds no events; choose another one, such as 'dopri5'")
        y0, layout = lay_out(call.y0)
        times = [float(time) for time in call.t.detach().tolist()]
        field = Field(Dynamics(call.func), (), layout, y0, (times[0], times[-1]))
        rtol, atol = (
            _flat(layout.pack_tolerance(tolerance(value), "a tolerance", y0)) for value in (call.rtol, call.atol)
        )
        ys, trouble = _solve_ivp(field, y0, times, rtol, atol, call.options)
        if trouble and not call.options.get("min_step"):
            raise IntegrationError(trouble, Status.STEP_UNDERFLOW)
        if trouble:
            warnings.warn(f"{trouble}; the states beyond are NaN. min_step is too long for the tolerance", stacklevel=4)
            ys = torch.cat([ys, y0.new_full((len(times) - len(ys), *y0.shape), math.nan)])
        if torch.is_grad_enabled() and (y0.requires_grad or call.t.requires_grad):
            ys = _NoGradient.apply(ys, y0, call.t)
        return Answer(layout.unpack(ys))

    def solve_back(
        self, f: Augmented, z: Tensor, span: Span, allowed: Tolerance, options: Mapping[str, Any], hooks: Callbacks
    ) -> Tensor:
        assert span.t is not None
        ys, trouble = _solve_ivp(f, z, span.t.tolist(), _flat(allowed.rtol), _flat(allowed.atol), options)
        if trouble:
            raise IntegrationError(f"the backward solve: {trouble}", Status.STEP_UNDERFLOW)
        return ys[-1]


def _flat(tolerance: float | Tensor) -> Any:
    return tolerance.reshape(-1).cpu().numpy() if isinstance(tolerance, Tensor) else tolerance


def _solve_ivp(
    f: Callable[[float, Tensor], Tensor], y0: Tensor, times: list[float], rtol: Any, atol: Any,
    options: Mapping[str, Any],
) -> tuple[Tensor, str]:  # fmt: skip
    """The states ``[K, ...]``, detached, at the times that were reached, and if those are not all, why."""
    if len(times) == 1:
        return y0.detach()[None], ""
    try:
        from scipy.integrate import LSODA, solve_ivp  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise ArgumentError("method='scipy_solver' needs SciPy, which is not installed: pip install scipy") from None

    def on_arrays(t: float, y: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            state = torch.as_tensor(y, dtype=y0.dtype, device=y0.device).reshape(y0.shape)
            return f(float(t), state).cpu().numpy().reshape(-1)

    least, most = number(options.get("min_step", 0)), number(options.get("max_step", math.inf))
    given = {name: value for name, value in (("min_step", least), ("max_step", most)) if value not in (0, math.inf)}
    method = options.get("solver", "LSODA")
    found = solve_ivp(
        on_arrays, (times[0], times[-1]), y0.detach().cpu().numpy().reshape(-1), t_eval=times,
        method=_floored(LSODA, least) if least and method == "LSODA" else method,
        rtol=rtol, atol=atol, **given,
    )  # fmt: skip
    states = np.asarray(found.y).reshape(y0.numel(), len(found.t)).T
    ys = torch.as_tensor(states, dtype=y0.dtype, device=y0.device).reshape(len(found.t), *y0.shape)
    return ys, "" if found.success else f"SciPy gave up after {len(found.t)} of {len(times)} times: {found.message}"


def _floored(solver: Any, least: float) -> Any:
    """A solver of SciPy's that gives up once it changes to steps shorter than ``least``.

    LSODA promises that by itself; SciPy's since version 1.17 takes the short steps.
    """

    class Floored(solver):  # type: ignore[misc]
        first: float | None = None

        def _step_impl(self) -> tuple[bool, str | None]:
            t = self.t
            success, message = super()._step_impl()
            size = abs(self.t - t)
            self.first = self.first or size
            if success and size < least and not math.isclose(size, self.first) and self.t != self.t_bound:
                return False, f"the tolerance asks for steps shorter than min_step={least:g}"
            return success, message

    return Floored


class _NoGradient(torch.autograd.Function):
    """The values, with a gradient that is an error instead of silently missing."""

    @staticmethod
    def forward(ctx: Any, ys: Tensor, *inputs: Tensor) -> Tensor:
        return ys.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, ...]:
        raise GradientError("method='scipy_solver' has no gradient in odeint; use odeint_adjoint, or another method")
