"""The shapes that plugins fill in: dynamics, solvers, step control, gradients, traces, models and datasets.

Everything here is a contract. A *setting* lives on the object (its attributes); *progress* lives in a carry that the
caller holds. One object can therefore serve many solves at once, and replaying a step gives the same numbers again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import attrs
import torch
from torch import Tensor, nn

from odekit.core.interpolate import hermite
from odekit.core.jacobian import Linearised
from odekit.core.solution import Solution, Stats, Status
from odekit.core.times import Time
from odekit.errors import InputError, OptionError

if TYPE_CHECKING:
    from odekit.core.problem import Problem
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

    def linearised(self, t: Time, y: Tensor, rows: bool) -> Linearised:
        """∂f/∂y there, detached; in blocks, one a row, if ``rows`` says that rows do not interact."""
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


@attrs.frozen(eq=False)
class Step:
    """One step from ``(t0, y0)`` to ``(t1, y1)``.

    Attributes:
        error: estimate of the local error of ``y1``, shaped like it; None where the method has none.
        carry: what the solver hands to its next step.
        dense: what the solver's ``interpolate`` needs; private to the solver.
        status: SUCCESS, or why the step is no good (a control then retries with a smaller one, if it can).
    """

    t0: Time
    t1: Time
    y0: Tensor
    y1: Tensor
    error: Tensor | None = None
    carry: Any = None
    dense: Any = None
    status: Status = Status.SUCCESS


class ODESolver(ABC):
    """A one-step method. Subclasses hold settings only; :meth:`step` is pure.

    Class attributes:
        name: the registered name.
        order: order of convergence of ``y1``.
        error_order: order of the embedded solution, or None without an error estimate (then fixed steps only).
        implicit: whether a step solves equations.
        memoryless: whether ``init`` gives back, from the state alone, the carry that a step ending there returned.
            Replays of such a method need the accepted states and nothing else.
    """

    name: ClassVar[str]
    order: ClassVar[int]
    error_order: ClassVar[int | None] = None
    implicit: ClassVar[bool] = False
    memoryless: ClassVar[bool] = False

    def prepared(self, tolerance: Tolerance) -> ODESolver:
        """This solver with whatever it ties to the tolerance of the solve; itself if nothing."""
        return self

    def init(self, f: VectorField, t0: Time, y0: Tensor, f0: Tensor | None = None) -> Any:
        """The carry for a first step at ``(t0, y0)``. ``f0`` is ``f(t0, y0)`` where the caller already has it."""
        return None

    @abstractmethod
    def step(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Any) -> Step:
        """One step. Must not change ``y0`` or ``carry`` in place, nor call f outside ``[t0, t1]``."""

    def replay(self, f: VectorField, t0: Time, t1: Time, y0: Tensor, carry: Any) -> Tensor:
        """``step(...).y1`` to the last bit or to rounding, without what only step control and dense output need."""
        return self.step(f, t0, t1, y0, carry).y1

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


class StepControl(ABC):
    """Chooses step sizes. Holds settings only. Times are host floats; the sign of a step is that of the span."""

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

    def resumed(self, step_size: float) -> StepControl:
        """This control for a solve that goes on where another one, about to step by ``step_size``, has ended."""
        return self


class GradientMethod(ABC):
    """Owns what is kept between the forward solve and its backward pass.

    Class attributes:
        name: the registered name.
        exact: True for the gradient of the computed numbers, False for that of the underlying ODE.
        memory: how peak memory grows, in words.
    """

    name: ClassVar[str]
    exact: ClassVar[bool]
    memory: ClassVar[str]

    def prepared(self, solver_named: Callable[[str], ODESolver]) -> GradientMethod:
        """This method with the names among its settings resolved; itself if there are none."""
        return self

    @abstractmethod
    def solve(self, problem: Problem, solver: ODESolver, control: StepControl) -> Outcome:
        """Solve forwards so that ``backward()`` through the returned tensors gives the gradient."""


@attrs.frozen(eq=False)
class Outcome:
    """A finished integration on packed tensors: ``ys [T, ...]``, where it ended, why, and at what cost.

    ``step_size`` is the size that the control would have tried next.
    """

    ys: Tensor
    t1: float
    y1: Tensor
    status: Status
    stats: Stats
    step_size: float = 0.0


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
        task: ``"classification"`` or ``"density"``.

    Modules inside it that solve ODEs keep the :class:`Stats` of their latest solve in an attribute ``stats``.
    """

    name: ClassVar[str]
    task: ClassVar[str]

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
    """

    name: ClassVar[str]
    task: ClassVar[str]

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
