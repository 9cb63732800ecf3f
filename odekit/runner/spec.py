"""What an experiment is: one frozen description, checked when it is made, read from TOML and written back to it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable
from typing import Any

import attrs

from odekit.errors import InputError, OptionError, nearest

DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check(accepts: Callable[[Any], bool], words: str) -> Callable[[Any, Any, Any], None]:
    """A validator; None is for the field's type to allow."""

    def validate(_: Any, attribute: Any, value: Any) -> None:
        if value is not None and not accepts(value):
            raise InputError(f"{attribute.name}: expected {words}, got {value!r}")

    return validate


def _whole(at_least: int) -> Callable[[Any, Any, Any], None]:
    def accepts(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= at_least

    return _check(accepts, f"a whole number, at least {at_least}")


def _one_of(*names: str) -> Callable[[Any, Any, Any], None]:
    def validate(_: Any, attribute: Any, value: Any) -> None:
        if value not in names:
            raise OptionError(f"{attribute.name}: {value!r} is not known. {nearest(str(value), names)}")

    return validate


_positive = _check(lambda value: _finite(value) and value > 0, "a finite number above 0")
_not_negative = _check(lambda value: _finite(value) and value >= 0, "a finite number, 0 or above")
_fraction = _check(lambda value: _finite(value) and 0 < value < 1, "a number between 0 and 1")
_below_one = _check(lambda value: _finite(value) and 0 <= value < 1, "a number from 0 to below 1")
_name = _check(lambda value: isinstance(value, str) and bool(value), "a name")


@attrs.frozen
class Choice:
    """A registered thing by its name, and its own options."""

    name: str = attrs.field(validator=_name)
    options: dict[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class SolverChoice(Choice):
    """The solver, and how it is to step; what is None is left to :func:`odekit.solve`."""

    rtol: float | None = attrs.field(default=None, validator=_positive, kw_only=True)
    atol: float | None = attrs.field(default=None, validator=_positive, kw_only=True)
    step_size: float | None = attrs.field(default=None, validator=_positive, kw_only=True)
    control: str | None = attrs.field(default=None, validator=_name, kw_only=True)
    max_steps: int | None = attrs.field(default=None, validator=_whole(1), kw_only=True)


def _whole_paths(value: Iterable[str | os.PathLike[str]]) -> tuple[str, ...]:
    if isinstance(value, str):
        raise InputError(f"plugins: expected a list of files, got {value!r}; write [{value!r}]")
    return tuple(os.path.abspath(path) for path in value)


def _choice(value: str | Choice) -> Choice:
    return Choice(value) if isinstance(value, str) else value


def _solver_choice(value: str | SolverChoice) -> SolverChoice:
    return SolverChoice(value) if isinstance(value, str) else value


@attrs.frozen
class Train:
    """How long, on what batches, and which weights count in the end.

    Attributes:
        epochs, steps: the length, as one of the two; ten epochs if neither is given.
        batch_size: samples in a batch, over all processes together.
        grad_clip: the largest norm of the gradient, which is scaled down to it.
        select: ``"last"`` takes the weights after the last step, ``"best"`` those of the best evaluation.
    """

    epochs: int | None = attrs.field(default=None, validator=_whole(1))
    steps: int | None = attrs.field(default=None, validator=_whole(1))
    batch_size: int = attrs.field(default=128, validator=_whole(1))
    grad_clip: float | None = attrs.field(default=None, validator=_positive)
    select: str = attrs.field(default="last", validator=_one_of("last", "best"))

    def __attrs_post_init__(self) -> None:
        if self.epochs is not None and self.steps is not None:
            raise OptionError("epochs and steps cannot both be given; keep one of them")
        if self.epochs is None and self.steps is None:
            object.__setattr__(self, "epochs", 10)


@attrs.frozen
class Optimizer:
    """The optimiser and its settings. ``momentum`` belongs to sgd alone."""

    name: str = attrs.field(default="adam", validator=_one_of("adam", "adamw", "sgd"))
    lr: float = attrs.field(default=1e-3, validator=_positive)
    weight_decay: float = attrs.field(default=0.0, validator=_not_negative)
    momentum: float | None = attrs.field(default=None, validator=_below_one)

    def __attrs_post_init__(self) -> None:
        if self.momentum is not None and self.name != "sgd":
            raise OptionError(f"momentum: {self.name} has none; leave it out, or use the optimizer sgd")


@attrs.frozen
class Schedule:
    """How the learning rate goes on from its first value.

    ``constant``; ``cosine``: down to zero along half a cosine (Loshchilov & Hutter 2017, *SGDR*, Equation 5);
    ``steps``: times ``factor`` at each of ``drops``, which are fractions of the whole run.
    """

    name: str = attrs.field(default="constant", validator=_one_of("constant", "cosine", "steps"))
    drops: tuple[float, ...] | None = attrs.field(
        default=None,
        validator=_check(lambda drops: all(_finite(d) and 0 < d < 1 for d in drops), "numbers between 0 and 1"),
    )
    factor: float | None = attrs.field(default=None, validator=_fraction)

    def __attrs_post_init__(self) -> None:
        if self.name == "steps" and not self.drops:
            raise OptionError("drops: 'steps' needs the places of its drops, e.g. --set schedule.drops=[0.5,0.75]")
        if self.name != "steps" and (self.drops or self.factor is not None):
            raise OptionError(f"drops and factor belong to the schedule 'steps', not to {self.name!r}; leave them out")

    def rate(self, done: float) -> float:
        """The share of the first learning rate that is used after the fraction ``done`` of the run."""
        if self.name == "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        factor = 0.1 if self.factor is None else self.factor
        return factor ** sum(done >= drop for drop in self.drops or ())


@attrs.frozen
class Evaluate:
    """When and on how much the model is evaluated.

    Attributes:
        every: steps between evaluations on the validation part; by default once an epoch where the length is given
            in epochs, else ten times in the run.
        batch_size: samples solved together.
        limit: evaluate on this many samples only, for a first look.
    """

    every: int | None = attrs.field(default=None, validator=_whole(1))
    batch_size: int = attrs.field(default=1000, validator=_whole(1))
    limit: int | None = attrs.field(default=None, validator=_whole(1))


@attrs.frozen(kw_only=True)
class Spec:
    """One experiment. See :mod:`odekit.runner.toml` for its form as a file.

    Attributes:
        model, data, solver, gradient, trace: what is used, a bare name or a :class:`Choice`.
        seed: everything random in the run follows from it.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        dtype: of parameters and data.
        threads: of each process on the CPU; what PyTorch finds by default.
        plugins: files with plugins, loaded before names are looked up; kept as whole paths.

    Raises:
        InputError: a value is not what its field holds; the message names the field.
    """

    model: Choice = attrs.field(converter=_choice)
    data: Choice = attrs.field(converter=_choice)
    solver: SolverChoice = attrs.field(default=SolverChoice("dopri5"), converter=_solver_choice)
    gradient: Choice = attrs.field(default=Choice("adjoint"), converter=_choice)
    trace: Choice = attrs.field(default=Choice("hutchinson"), converter=_choice)
    train: Train = Train()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    evaluate: Evaluate = Evaluate()
    seed: int = attrs.field(default=0, validator=_whole(0))
    device: str = attrs.field(
        default="auto",
        validator=_check(
            lambda value: isinstance(value, str) and bool(DEVICE.fullmatch(value)),
            "auto, cpu, cuda, cuda:N or mps",
        ),
    )
    dtype: str = attrs.field(default="float32", validator=_one_of("float32", "float64"))
    threads: int | None = attrs.field(default=None, validator=_whole(1))
    plugins: tuple[str, ...] = attrs.field(default=(), converter=_whole_paths)
