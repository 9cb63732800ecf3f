"""The shapes that plugins fill in: dynamics, solvers, step control, gradients, traces, models and datasets.

Everything here is a contract. A *setting* lives on the object (its attributes); *progress* lives in a carry that the
caller holds. One object can therefore serve many solves at once, and replaying a step gives the same numbers again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from odekit.core import lanes
from odekit.core.expansion import Expansion
from odekit.core.interpolate import hermite
from odekit.core.jacobian import Linearised
from odekit.core.linear import Linear
from odekit.core.rows.each import judge_each, start_each
from odekit.core.sections import Section
from odekit.core.solution import Solution, Stats, Status
from odekit.core.times import Time, coefficient
from odekit.errors import GradientError, InputError, OptionError

if TYPE_CHECKING:
    from odekit.core.outputs import Slot
    from odekit.core.problem import Problem
    from odekit.core.rows.answer import RowOutcome
    from odekit.core.rows.field import RowField
    from odekit.core.rows.problem import RowProblem
    from odekit.core.rows.tolerance import RowTolerance
    from odekit.core.tolerance import Tolerance


class Dynamics(Protocol):
    """The user's vector field: ``f(t, y, *args) -> dy/dt``, any callable or ``nn.Module``.

    ``t`` arrives as a 0-d tensor in the state's real dtype on the state's device; ``y`` is whatever the caller passed
    as ``y0``, and what is returned has the same nesting, shapes, dtype and device.
    """

    def __call__(self, t: Tensor, y: Any, *args: Any) -> Any: ...


class VectorField(Protocol):
    """The dynamics as a step sees them: on one packed tensor, counted and checked."""

    def __call__(self, t: Time, y: Tensor) -> Tensor: ...

    def times(self, values: Sequence[Time]) -> Sequence[Tensor]:
        """The given times as 0-d tensors, made in one go."""
        ...

    def inside(self, t: Time) -> bool:
        """Whether f may be asked at this time."""
        ...

    def linearised(self, t: Time, y: Tensor, linear: Linear) -> Linearised:
        """∂f/∂y there, detached, in the form that ``linear`` solves with. One call of f."""
        ...

    def expanded(self, t: Time, y: Tensor, rows: bool) -> Expansion:
        """f to first order there, all of ∂f/∂y included, with derivatives of their own; one call of f."""
        ...

    def rows_are_independent(self, t: Time, y: Tensor) -> bool:
        """Whether ``y`` is a batch ``[B, ...]`` whose rows do not interact, judged at this point."""
        ...


class CountedField(VectorField, Protocol):
    """A vector field that knows how often it was called."""

    @property
    def nfe(self) -> int: ...

    @property
    def jacobians(self) -> int: ...

    def confined(self, section: Section) -> CountedField:
        """The same field between two discontinuities of f, counted together with this one."""
        ...


@attrs.define(eq=False)
class Step:
    """One step from ``(t0, y0)`` to ``(t1, y1)``.

    Attributes:
        error: estimate of the local error of ``y1``, shaped like it; None where the method has none.
        carry: what the solver hands to its next step.
        dense: what the solver's ``interpolate`` needs; private to the solver.
        growth: by how much the solver would have the next step (or the retry of this one) be longer than this one; None
            leaves that to the control. For solvers that choose more than a size, such as an order.
        status: SUCCESS, or why the step is no good (a control then retries with a smaller one, if it can).
        retry: what the solver is handed for a shorter try at this step, should this one be rejected; None stands for
            what this one was handed.
        ratio: the error in units of what is allowed, a 0-d tensor or ``[B]`` by row, where the step computed that
            itself; ``error`` may then be None.
        row_statuses: the same for every row ``[B]``, where rows have times of their own and some of them failed.
    """

    t0: Time
    t1: Time
    y0: Tensor
    y1: Tensor
    error: Tensor | None = None
    carry: Any = None
    dense: Any = None
    growth: float | None = None
    status: Status = Status.SUCCESS
    row_statuses: Sequence[Status] | None = None
    retry: Any = None
    ratio: Tensor | None = None


class ODESolver(ABC):
    """A one-step method. Subclasses hold settings only; :meth:`step` is pure.

    Class attributes:
        name: the registered name.
        order: order of convergence of ``y1``; a family of methods has its usual one here, and each instance its own.
        error_order: order of the embedded solution, or None without an error estimate (then fixed steps only).
        dense_order: order of what :meth:`interpolate` gives: its error inside a step is O(dt^(dense_order + 1)).
        implicit: whether a step solves equations.
        structure: what right-hand sides the method is for: ``"general"``; ``"separable"``, for a state of two halves
            [q | p] that change by v(t, p) and a(t, q); ``"semilinear"``, where the solver is told a linear part.
        memoryless: whether ``init`` gives back, from the state alone, the carry that a step ending there returned.
            Replays of such a method need the accepted states and nothing else.
        rowwise: whether a step may have a time for every row: ``t0`` and ``t1`` are then RowTimes (or tensors
            ``[B, 1, ..., 1]``), rows do not interact, and what comes out for a row is what that row alone would give.
            All tensors and arrays in a carry, as a tree (optree), then have the rows along their first axis.
        complex_states: whether the state may be complex; a solver that says False raises InputError for one.
    """

    name: ClassVar[str]
    order: int
    error_order: int | None = None
    dense_order: int = 3
    implicit: ClassVar[bool] = False
    structure: ClassVar[str] = "general"
    memoryless: ClassVar[bool] = False
    rowwise: ClassVar[bool] = False
    complex_states: ClassVar[bool] = True

    def prepared(self, tolerance: Tolerance) -> ODESolver:
        """This solver with whatever it ties to the tolerance of the solve; itself if nothing."""
        return self

    def differentiable(self, times: int) -> ODESolver:
        """This solver with steps that autograd can differentiate so many times; itself if it can already."""
        return self

    def own_control(self) -> StepControl | None:
        """The step control that this solver needs where the caller names none; None for the usual one.

        For solvers that choose their steps by themselves.
        """
        return None

    def init(self, f: VectorField, t0: Time, y0: Tensor, f0: Tensor | None = None) -> Any:
        """The carry for a first step at ``(t0, y0)``. ``f0`` is ``f(t0, y0)`` where the caller already has it."""
        return None

    @abstractmethod
    def step(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Any) -> Step:
        """One step. Must not change ``y0`` or ``carry`` in place, nor call f outside ``[t0, t1]``."""

    def advance(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Any) -> Step:
        """:meth:`step` for where nobody reads the error, as with fixed steps: its ``error`` may be None to save calls.

        ``y1`` is that of ``step`` to the last bit or to rounding, and the carry serves as well.
        """
        return self.step(f, t0, t1, y0, carry)

    def replay(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Any) -> Tensor:
        """``step(...).y1`` to the last bit or to rounding, without what only step control and dense output need."""
        return self.advance(f, t0, t1, y0, carry).y1

    def densify(self, f: VectorField, step: Step) -> Step:
        """The step with all that :meth:`interpolate` needs; called only when an output falls inside it. May call f.

        By default ``dense`` becomes the slopes at both ends, at the cost of two calls.
        """
        return attrs.evolve(step, dense=(f(step.t0, step.y0), f(step.t1, step.y1)))

    def interpolate(self, step: Step, theta: Time) -> Tensor:
        """The state at ``t0 + theta (t1 - t0)``, with ``theta`` in [0, 1], from a densified step.

        By default the cubic Hermite interpolant of the two slopes in ``dense``.
        """
        f0, f1 = step.dense
        return hermite(step.y0, step.y1, f0, f1, step.t1 - step.t0, theta)

    def derivative(self, step: Step, theta: Time) -> Tensor:
        """dy/dt of what :meth:`interpolate` gives there, shaped like it, by differentiating it.

        Each component of an interpolant is a function of its own ``theta``, so that one reverse pass (two for complex
        states) has them all. It has a gradient of its own if the step or ``theta`` has.
        """
        at = torch.as_tensor(coefficient(theta, step.y0), dtype=step.y0.real.dtype, device=step.y0.device)
        if lanes.transformed():
            at = at.expand(torch.broadcast_shapes(at.shape, step.y0.shape)).clone()
            slope = torch.func.jvp(lambda x: self.interpolate(step, x), (at,), (torch.ones_like(at),))[1]
            return slope / coefficient(step.t1 - step.t0, step.y0)
        again = torch.is_grad_enabled() and (at.requires_grad or self.interpolate(step, at).requires_grad)
        with torch.enable_grad():
            at = at.expand(torch.broadcast_shapes(at.shape, step.y0.shape)).clone()
            at = at if at.requires_grad else at.requires_grad_()
            y = self.interpolate(step, at)
            parts = torch.view_as_real(y).unbind(-1) if y.is_complex() else (y,)
            slopes = [torch.autograd.grad(part.sum(), at, create_graph=again, retain_graph=True)[0] for part in parts]
        slope = torch.complex(*slopes) if y.is_complex() else slopes[0]
        return slope / coefficient(step.t1 - step.t0, step.y0)


@attrs.frozen(eq=False)
class Proposal:
    """How to begin: where the first step should end, the control's carry, and ``f(t0, y0)`` where it was needed.

    A ``status`` other than SUCCESS ends the solve before its first step.
    """

    t_next: float
    carry: Any = None
    f0: Tensor | None = None
    status: Status = Status.SUCCESS


@attrs.frozen(eq=False)
class Verdict:
    """A control's judgement of a step.

    Attributes:
        accept: whether the step counts.
        t_next: where the next step (or the retry of a rejected one) should end; the loop clips it to the span.
            None gives up, with ``status`` as the reason.
        carry: the control's own, for its next judgement.
        status: for a rejected step, what was wrong with it; SUCCESS if its error was merely too large.
    """

    accept: bool
    t_next: float | None
    carry: Any = None
    status: Status = Status.SUCCESS


@attrs.frozen(eq=False)
class RowProposal:
    """How to begin by rows: what a :class:`Proposal` says, for every row.

    Attributes:
        t_next: ``[B]``.
        carry: the control's own, nested arrays whose first axis are the rows.
        f0: dy/dt of all rows at their starts, where it was needed.
        statuses: ``[B]``, an array of :class:`Status`.
    """

    t_next: np.ndarray
    carry: Any
    f0: Tensor | None
    statuses: np.ndarray


@attrs.frozen(eq=False)
class RowVerdict:
    """A control's judgement of the steps of all rows: what a :class:`Verdict` says, for every row.

    Attributes:
        accept: ``[B]``.
        t_next: ``[B]``, NaN where a row gives up.
        carry: the control's own, nested arrays whose first axis are the rows.
        statuses: ``[B]``, an array of :class:`Status`.
    """

    accept: np.ndarray
    t_next: np.ndarray
    carry: Any
    statuses: np.ndarray


class StepControl(ABC):
    """Chooses step sizes. Holds settings only. Times are host floats; the sign of a step is that of the span.

    Class attributes:
        adaptive: whether it reads error estimates. Steps for one that does not are spared the work of making them.
    """

    adaptive: ClassVar[bool]

    @abstractmethod
    def start(
        self,
        f: VectorField,
        t0: float,
        t1: float,
        y0: Tensor,
        solver: ODESolver,
        tolerance: Tolerance,
        f0: Tensor | None = None,
    ) -> Proposal:
        """The end of the first step. ``f0`` is ``f(t0, y0)`` if known; if it is needed and not, the proposal has it."""

    @abstractmethod
    def judge(self, step: Step, t0: float, t1: float, solver: ODESolver, tolerance: Tolerance, carry: Any) -> Verdict:
        """Judge the step taken from ``t0`` to ``t1``. The only place of the loop that may read from the device."""

    def start_rows(
        self,
        f: RowField,
        t0: np.ndarray,
        t1: np.ndarray,
        y0: Tensor,
        solver: ODESolver,
        tolerance: RowTolerance,
        f0: Tensor | None = None,
        sizes: np.ndarray | None = None,
    ) -> RowProposal:
        """:meth:`start` for every row, with times ``[B]``; by default one row after the other.

        ``sizes`` are those of the first steps ``[B]``, where the caller knows them.
        """
        return start_each(self, f, t0, t1, y0, solver, tolerance, f0, sizes)

    def judge_rows(
        self, step: Step, t0: np.ndarray, t1: np.ndarray, solver: ODESolver, tolerance: RowTolerance, carry: Any
    ) -> RowVerdict:
        """:meth:`judge` for every row, with times ``[B]``; by default one row after the other."""
        return judge_each(self, step, t0, t1, solver, tolerance, carry)

    def limited(self, limits: Mapping[str, float]) -> StepControl:
        """This control with other bounds: ``dt_min``, ``dt_max`` or ``first_step``, as far as they are among these.

        Raises:
            OptionError: it has no such bounds.
        """
        raise OptionError(f"{', '.join(limits)}: a {type(self).__name__} does not take them; they bound adaptive steps")

    def resumed(self, step_size: float) -> StepControl:
        """This control for a solve that goes on where another one, about to step by ``step_size``, has ended."""
        return self


class GradientMethod(ABC):
    """Owns what is kept between the forward solve and its backward pass.

    Class attributes:
        name: the registered name.
        exact: True for the gradient of the computed numbers, False for that of the underlying ODE.
        memory: how peak memory grows, in words: a sum of products, such as ``"steps × state + one evaluation's
            activations"``. What has no factor ``steps`` does not grow with the number of steps.
        twice: whether the gradient can be differentiated once more; None if that is not declared. What cannot be
            differentiated raises GradientError.
        steady: whether it is for steady states alone: the state at the end is taken to be at rest.
        dissects: whether it takes the steps of a solver apart, which can then not be compiled.
    """

    name: ClassVar[str]
    exact: ClassVar[bool]
    memory: ClassVar[str]
    twice: ClassVar[bool | None] = None
    steady: ClassVar[bool] = False
    dissects: ClassVar[bool] = False

    def prepared(self, solver_named: Callable[[str], ODESolver]) -> GradientMethod:
        """This method with the names among its settings resolved; itself if there are none."""
        return self

    def chosen(
        self, problem: Problem | RowProblem, solver: ODESolver, control: StepControl
    ) -> tuple[GradientMethod, str]:
        """The method that is used for this problem, and why; itself, which needs no reason, unless it is a rule."""
        return self, ""

    @abstractmethod
    def solve(self, problem: Problem, solver: ODESolver, control: StepControl) -> Outcome:
        """Solve forwards so that ``backward()`` through the returned tensors gives the gradient."""

    def solve_rows(self, problem: RowProblem, solver: ODESolver, control: StepControl) -> RowOutcome:
        """The same for ``batch="rows"``, with a solver that is ``rowwise``.

        Raises:
            GradientError: this method has no such solve.
        """
        raise GradientError(f"gradient={self.name!r} cannot step by rows; use gradient='direct', or batch=\"shared\"")


@attrs.frozen(eq=False)
class Outcome:
    """A finished integration on packed tensors: ``ys [N, ...]``, where it ended, why, and at what cost.

    ``step_size`` is the size that the control would have tried next, ``slots`` say what each of the N outputs is.
    """

    ys: Tensor
    t1: float
    y1: Tensor
    status: Status
    stats: Stats
    step_size: float = 0.0
    slots: tuple[Slot, ...] = ()


class TraceEstimator(ABC):
    """tr(∂f/∂y), exactly or in expectation, from products with the Jacobian of f.

    Class attributes:
        name: the registered name.
        exact: whether the trace has no variance.
    """

    name: ClassVar[str]
    exact: ClassVar[bool]

    def draw(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor | None:
        """Noise for one whole solve, for a batch like ``y`` of shape ``[B, ...]``; None if none is needed."""
        return None

    def variance(self, jacobian: Tensor) -> Tensor | None:
        """The variance ``[B]`` of one estimate, for Jacobians ``[B, D, D]``; None if it is not declared."""
        return torch.zeros_like(jacobian[:, 0, 0]) if self.exact else None

    def products(self, size: int) -> int | None:
        """Products with the Jacobian that one evaluation forms, for rows of ``size`` numbers; None: not declared."""
        return None

    @abstractmethod
    def __call__(
        self, f: Callable[[Tensor, Tensor], Tensor], t: Tensor, y: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """``(f(t, y), trace)`` of shapes ``[B, ...]`` and ``[B]``, where row b of f depends on row b of y only.

        Differentiable with respect to y and whatever f closes over.
        """

    def with_frobenius(
        self, f: Callable[[Tensor, Tensor], Tensor], t: Tensor, y: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What :meth:`__call__` gives and ``‖∂f/∂y‖_F²`` ``[B]``, exactly or in expectation, from the same products.

        Raises:
            OptionError: this estimator cannot; only some of them form products with the whole Jacobian.
        """
        raise OptionError(
            f"trace estimator {self.name!r} has no estimate of the Jacobian's Frobenius norm; "
            "choose 'hutchinson' or 'exact'"
        )


@attrs.frozen
class Tools:
    """How a model is to solve its ODEs: the settings chosen by name, ready to be handed to :func:`odekit.solve`."""

    solver: ODESolver | str = "dopri5"
    gradient: GradientMethod | str = "adjoint"
    trace: TraceEstimator | str = "hutchinson"
    rtol: float | None = None
    atol: float | None = None
    step_size: float | None = None
    control: StepControl | str | None = None
    max_steps: int | None = None

    def solve_options(self) -> dict[str, Any]:
        """Keyword arguments for :func:`odekit.solve` and :class:`odekit.NeuralODE`; unset ones are left out."""
        names = ("solver", "gradient", "rtol", "atol", "step_size", "control", "max_steps")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


class Model(nn.Module, ABC):
    """Something that the runner can train.

    Class attributes:
        name: the registered name.
        task: ``"classification"``, ``"density"``, or another one, that of its datasets, measured by the loss.
        solves: whether it solves ODEs. One that does not has no use for tools; a run with it refuses to choose any.

    Modules inside it that solve ODEs keep the :class:`Stats` of their latest solve in an attribute ``stats``. A model
    of a task of its own has a static method ``example()``: samples, and labels or None, for it to be tried on.
    """

    name: ClassVar[str]
    task: ClassVar[str]
    solves: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def build(cls, shape: tuple[int, ...], classes: int | None, tools: Tools, **options: Any) -> Model:
        """A fresh model for samples of ``shape`` (and ``classes`` classes); the options are this model's own."""

    @abstractmethod
    def loss(
        self, x: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to minimise on a batch, and detached 0-d tensors to report beside it."""

    def solve_stats(self) -> list[Stats]:
        """The costs of the latest solves, one for each module inside that solves."""
        found = (getattr(module, "stats", None) for module in self.modules())
        return [stats for stats in found if isinstance(stats, Stats)]


class Classifier(Model):
    """A model whose ``forward(x)`` gives logits ``[B, classes]``."""

    task = "classification"

    def loss(
        self, x: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if y is None:
            raise InputError("a classifier's loss needs labels y [B]; got None")
        logits = self(x)
        loss = nn.functional.cross_entropy(logits, y)
        error = (logits.detach().argmax(-1) != y).to(logits.dtype).mean()
        return loss, {"cross_entropy": loss.detach(), "error": error}


class DensityModel(Model):
    """A model of a density: ``log_prob`` and ``sample``."""

    task = "density"

    @abstractmethod
    def log_prob(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """log p(x) in nats, ``[B]``. ``generator`` draws the trace noise where there is any."""

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """``n`` samples, ``[n, ...]``."""

    def loss(
        self, x: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        nll = -self.log_prob(x, generator).mean()
        return nll, {"nll": nll.detach()}


@attrs.frozen(eq=False)
class Split:
    """Samples ``x [N, ...]``, with labels ``y [N]`` where the task has them."""

    x: Tensor
    y: Tensor | None = None

    def __len__(self) -> int:
        return self.x.shape[0]


@attrs.frozen(eq=False)
class Data:
    """A loaded dataset, in host memory.

    Attributes:
        shape: of one sample.
        classes: for classification.
        caveat: what a reader of the results must know, e.g. that the training part is incomplete.
        augment: ``augment(x, generator) -> x`` for training batches.
    """

    train: Split
    valid: Split
    test: Split
    shape: tuple[int, ...]
    classes: int | None = None
    caveat: str | None = None
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None


class Dataset(ABC):
    """A named source of :class:`Data`.

    Class attributes:
        name: the registered name.
        task: the task that it serves, as in :class:`Model`.
        files: the files that it needs and their SHA-256, by name; they are in the data folder, or in a folder ``name``
            in that. None if that is not declared.
    """

    name: ClassVar[str]
    task: ClassVar[str]
    files: ClassVar[Mapping[str, str] | None] = None

    @classmethod
    @abstractmethod
    def load(cls, folder: Path | None, seed: int, **options: Any) -> Data:
        """Load from ``folder`` (the data folder, or None if there is none); generated data depend on ``seed`` only.

        Raises:
            DataError: files are missing or damaged; the message says where they are looked for.
        """


__all__ = [
    "Classifier", "Data", "Dataset", "DensityModel", "Dynamics", "GradientMethod", "Model", "ODESolver", "Outcome",
    "Proposal", "Solution", "Split", "Step", "StepControl", "Time", "Tools", "TraceEstimator", "VectorField", "Verdict",
]  # fmt: skip
