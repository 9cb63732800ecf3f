"""SciPy's solvers, each of which goes from one end of an odekit step to the other in as many steps as it likes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, cast

import attrs
import numpy as np
import torch
from torch import Tensor

import odekit
from odekit import Status
from odekit.core.jacobian import Jacobian
from odekit.core.linear import Dense
from odekit.core.protocols import ODESolver, Step, StepControl, VectorField
from odekit.core.times import Time
from odekit.core.tolerance import Tolerance
from odekit.errors import GradientError, InputError
from odekit_scipy.whole import Whole

_NO_GRADIENT = (
    "solver {name!r} computes outside PyTorch, so no gradient can flow through its steps; "
    "use gradient='adjoint', or solve under torch.no_grad()"
)
_LEAST_RTOL = 100 * np.finfo(np.float64).eps


def _at_least_one(instance: Any, attribute: Any, value: int) -> None:
    if value < 1:
        raise InputError(f"{attribute.name}={value!r}: expected an integer >= 1")


@attrs.frozen(eq=False)
class SciPySolver(ODESolver):
    """A solver of ``scipy.integrate``. Subclasses name it.

    SciPy chooses its steps by the tolerance of the solve and measures errors by their RMS, whatever ``norm=`` says; it
    takes no ``rtol`` below 2.2e-14. It computes in float64, on the host; f sees the dtype and device of the state.
    Jacobians are those of PyTorch and count as odekit's do.

    Attributes:
        max_steps: SciPy's steps within one step of odekit's; more of them are MAX_STEPS.
        tolerance: of the solve; filled in by it.
    """

    max_steps: int = attrs.field(default=100_000, validator=_at_least_one)
    tolerance: Tolerance = attrs.field(factory=lambda: Tolerance(1e-6, 1e-8))

    method: ClassVar[str]
    complex_states: ClassVar[bool] = True
    memoryless = True

    def own_control(self) -> StepControl:
        return Whole()

    def prepared(self, tolerance: Tolerance) -> ODESolver:
        return attrs.evolve(self, tolerance=tolerance)

    def step(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Any) -> Step:
        if isinstance(t0, Tensor) or isinstance(t1, Tensor) or _flows(y0):
            raise GradientError(_NO_GRADIENT.format(name=self.name))
        if y0.is_complex() and not self.complex_states:
            raise InputError(f"solver {self.name!r} takes real states only; got {y0.dtype}")
        if not bool(torch.isfinite(y0).all()):
            return Step(t0, t1, y0, y0, status=Status.NON_FINITE)
        try:
            status, y, pieces = self._integrated(f, float(t0), float(t1), y0)
        except _NotFinite:
            return Step(t0, t1, y0, y0, status=Status.NON_FINITE)
        return Step(t0, t1, y0, _tensor(y, y0), dense=(f, pieces), status=status)

    def _integrated(self, f: VectorField, t0: float, t1: float, y0: Tensor) -> tuple[Status, np.ndarray, list[Any]]:
        """SciPy's steps from ``t0`` to ``t1``: how they ended, where, and the dense output of each."""
        import scipy.integrate

        patience = _Patience()

        def slope(t: float, y: np.ndarray) -> np.ndarray:
            dy = f(float(t), _tensor(y, y0))
            if _flows(dy):
                raise GradientError(_NO_GRADIENT.format(name=self.name))
            return patience.watched(_array(dy))

        def matrix(t: float, y: np.ndarray) -> np.ndarray:
            made = f.linearised(float(t), _tensor(y, y0), Dense())
            found = cast(Jacobian, made).matrix.cpu().numpy().astype(_wide(y0))
            if not np.isfinite(found).all():  # SciPy's factorisation would raise
                raise _NotFinite
            return found

        if not np.isfinite(slope(t0, _array(y0))).all():  # SciPy's first step would be NaN
            raise _NotFinite
        kind = getattr(scipy.integrate, self.method)
        # The backward field of an adjoint has no matrix to show; SciPy then takes differences.
        shown = self.implicit and isinstance(f.linearised(t0, y0, Dense()), Jacobian)
        options = {"jac": matrix} if shown else {}
        rtol, atol = (_flat(x, y0) for x in (self.tolerance.rtol, self.tolerance.atol))
        solver = kind(slope, t0, _array(y0), t1, rtol=np.maximum(rtol, _LEAST_RTOL), atol=atol, **options)
        pieces: list[Any] = []
        while solver.status == "running":
            if len(pieces) == self.max_steps:
                return Status.MAX_STEPS, solver.y, pieces
            solver.step()
            if solver.status != "failed":
                pieces.append(solver.dense_output())
        finite = bool(np.isfinite(solver.y).all()) and bool(np.isfinite(slope(solver.t, solver.y)).all())
        if not finite:
            return Status.NON_FINITE, solver.y, pieces
        return (Status.SUCCESS if solver.status == "finished" else Status.STEP_UNDERFLOW), solver.y, pieces

    def densify(self, f: VectorField, step: Step) -> Step:
        return step

    def interpolate(self, step: Step, theta: Time) -> Tensor:
        _, pieces = step.dense
        thetas = np.asarray(theta.detach().cpu().double().numpy() if isinstance(theta, Tensor) else theta)
        times = step.t0 + thetas.reshape(-1) * (step.t1 - step.t0)
        states = torch.stack([_tensor(_piece(pieces, t)(t), step.y0) for t in times])
        return states.reshape(step.y0.shape) if thetas.ndim == 0 else states.reshape(-1, *step.y0.shape)

    def derivative(self, step: Step, theta: Time) -> Tensor:
        """f along the dense output; SciPy's has no derivative of its own."""
        f, _ = step.dense
        states = self.interpolate(step, theta)
        if isinstance(theta, Tensor) and theta.ndim:
            times = [step.t0 + float(x) * (step.t1 - step.t0) for x in theta.reshape(-1)]
            return torch.stack([f(t, y) for t, y in zip(times, states, strict=True)])
        return f(step.t0 + float(theta) * (step.t1 - step.t0), states)


class _NotFinite(Exception):
    """f gives nothing but NaN or infinities."""


class _Patience:
    """Ends a search for a step that SciPy would go on with for ever: NaN is below no bound on step sizes."""

    limit = 200

    def __init__(self) -> None:
        self.in_a_row = 0

    def watched(self, dy: np.ndarray) -> np.ndarray:
        self.in_a_row = 0 if np.isfinite(dy).all() else self.in_a_row + 1
        if self.in_a_row > self.limit:
            raise _NotFinite
        return dy


def _piece(pieces: list[Any], t: float) -> Any:
    """The dense output of the step that ``t`` is in."""
    ends = np.array([piece.t for piece in pieces])
    forwards = pieces[0].t >= pieces[0].t_old
    index = np.searchsorted(ends, t) if forwards else np.searchsorted(-ends, -t)
    return pieces[min(int(index), len(pieces) - 1)]


def _flows(x: Tensor) -> bool:
    return torch.is_grad_enabled() and x.requires_grad


def _wide(y: Tensor) -> type[np.generic]:
    """NumPy's double precision for such a state."""
    return np.complex128 if y.is_complex() else np.float64


def _array(y: Tensor) -> np.ndarray:
    """A state as SciPy has it: flat, in double precision."""
    return y.detach().cpu().numpy().reshape(-1).astype(_wide(y))


def _tensor(y: np.ndarray, like: Tensor) -> Tensor:
    """SciPy's state as a tensor like ``like``."""
    narrow = torch.empty(0, dtype=like.dtype).numpy().dtype
    return torch.from_numpy(np.array(y, dtype=narrow)).reshape(like.shape).to(like.device)


def _flat(tolerance: float | Tensor, y: Tensor) -> Any:
    """A tolerance as SciPy takes it: a number, or one for every component."""
    if not isinstance(tolerance, Tensor):
        return tolerance
    return tolerance.detach().cpu().double().expand(y.shape).reshape(-1).numpy()


class RK23(SciPySolver):
    """Bogacki & Shampine 1989, order 3(2)."""

    name = "scipy-rk23"
    order = 3
    method = "RK23"


class RK45(SciPySolver):
    """Dormand & Prince 1980, order 5(4)."""

    name = "scipy-rk45"
    order = 5
    method = "RK45"


class DOP853(SciPySolver):
    """Order 8(5,3). Hairer, Nørsett & Wanner, *Solving ODEs I*, II.5."""

    name = "scipy-dop853"
    order = 8
    method = "DOP853"


class Radau(SciPySolver):
    """Radau IIA of order 5. Hairer & Wanner, *Solving ODEs II*, IV.8."""

    name = "scipy-radau"
    order = 5
    method = "Radau"
    implicit = True
    complex_states = False


class BDF(SciPySolver):
    """Backward differentiation formulas of orders 1 to 5. Shampine & Reichelt 1997, *The MATLAB ODE suite*."""

    name = "scipy-bdf"
    order = 5
    method = "BDF"
    implicit = True


class LSODA(SciPySolver):
    """Adams or BDF, as it sees fit. Petzold 1983, *Automatic selection of methods for stiff and nonstiff systems*."""

    name = "scipy-lsoda"
    order = 5
    method = "LSODA"
    implicit = True
    complex_states = False


@odekit.hookimpl
def register_solvers(register: Callable[[Any], None]) -> None:
    for solver in (RK23, RK45, DOP853, Radau, BDF, LSODA):
        register(solver)
