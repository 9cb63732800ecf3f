"""torchdiffeq's methods by name: which solver of odekit each is, and which options it takes."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from odekit.compat import plans
from odekit.compat.call import Answer, Call
from odekit.compat.errors import ArgumentError
from odekit.compat.plans import Plan, Span
from odekit.core.callbacks import Callbacks
from odekit.core.course import Course
from odekit.core.integrate import integrate
from odekit.core.protocols import ODESolver
from odekit.core.sections import Stops
from odekit.core.times import Clock
from odekit.core.tolerance import Tolerance, default_tolerances
from odekit.errors import SolveError
from odekit.gradients.augmented import Augmented
from odekit.registry import catalog

_ADAMS_ORDER, _ADAMS_MAX_ORDER = 4, 12


class Method(ABC):
    """One of torchdiffeq's methods.

    Class attributes:
        options: the names of the options that it takes.
        callbacks: the names of the callbacks that it supports.
    """

    options: ClassVar[frozenset[str]]
    callbacks: ClassVar[frozenset[str]]

    @abstractmethod
    def solve(self, call: Call) -> Answer:
        """The answer to a call."""

    @abstractmethod
    def solve_back(
        self, f: Augmented, z: Tensor, span: Span, allowed: Tolerance, options: Mapping[str, Any], hooks: Callbacks
    ) -> Tensor:
        """The packed state of the adjoint's system at the end of a span of two times, without gradients."""

    def known(self, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options that this method takes, the others being named in a warning as in torchdiffeq."""
        strange = {key: value for key, value in options.items() if key not in self.options}
        if strange:
            warnings.warn(f"{name}: Unexpected arguments {strange}", stacklevel=5)
        return {key: value for key, value in options.items() if key in self.options}


@attrs.frozen
class Native(Method):
    """A method that is a solver of odekit's.

    Attributes:
        solver: its name in odekit.
    """

    solver: str

    @abstractmethod
    def plan(self, options: Mapping[str, Any], span: Span) -> Plan:
        """How the options have a span solved."""

    def made(self, options: Mapping[str, Any]) -> ODESolver:
        """The solver itself."""
        solver: Any = catalog().get("solver", self.solver)
        return solver() if isinstance(solver, type) else solver

    def solve(self, call: Call) -> Answer:
        return call.solved(self.plan(call.options, call.span))

    def solve_back(
        self, f: Augmented, z: Tensor, span: Span, allowed: Tolerance, options: Mapping[str, Any], hooks: Callbacks
    ) -> Tensor:
        assert span.t is not None
        plan, ends = self.plan(options, span), tuple(span.t.tolist())
        course = Course(stops=Stops.of(plan.step_times, plan.jump_times, *ends), callbacks=hooks)
        if not plan.control.adaptive:
            rtol, atol = default_tolerances(z.dtype, adaptive=False)
            allowed = attrs.evolve(allowed, rtol=rtol, atol=atol)
        with torch.no_grad():
            outcome = integrate(f, z, Clock(ends), plan.solver, plan.control, allowed, plan.max_steps, course=course)
        if not outcome.status.ok:
            raise SolveError(
                f"the backward solve stopped at t = {outcome.t1:g} on its way from {ends[0]:g} to {ends[1]:g}: "
                f"{outcome.status}. {outcome.status.hint} odeint has no backward solve to fail.",
                outcome.status,
            )
        return outcome.y1


@attrs.frozen
class Adaptive(Native):
    """A method under error control."""

    options = frozenset(
        {
            "norm", "min_step", "max_step", "first_step", "step_t", "jump_t", "safety", "ifactor", "dfactor",
            "max_num_steps", "dtype",
        }
    )  # fmt: skip
    callbacks = frozenset({"callback_step", "callback_accept_step", "callback_reject_step"})

    def plan(self, options: Mapping[str, Any], span: Span) -> Plan:
        return plans.adaptive(self.made(options), options, span)


@attrs.frozen
class Fixed(Native):
    """A method on a grid of times."""

    options = frozenset({"norm", "step_size", "grid_constructor", "interp", "perturb"})
    callbacks = frozenset({"callback_step"})

    def plan(self, options: Mapping[str, Any], span: Span) -> Plan:
        return plans.fixed(self.made(options), options, span)


@attrs.frozen
class FixedImplicit(Fixed):
    """A fixed-step method that iterates in each step, at most ``max_iters`` times."""

    options = Fixed.options | {"max_iters"}

    def made(self, options: Mapping[str, Any]) -> ODESolver:
        solver: Any = super().made(options)
        if "max_iters" not in options:
            return solver
        return attrs.evolve(solver, newton=attrs.evolve(solver.newton, max_iterations=int(options["max_iters"])))


@attrs.frozen
class Adams(Fixed):
    """A multistep method.

    Its order is ``max_order``, at most 8, and 4 by default; below 4 it is ``rk4``. The corrector is applied once, or
    not at all with ``implicit=False``; ``max_iters`` has no effect.
    """

    options = Fixed.options | {"max_order", "max_iters", "implicit"}

    def made(self, options: Mapping[str, Any]) -> ODESolver:
        order = int(options.get("max_order", _ADAMS_ORDER))
        if order > _ADAMS_MAX_ORDER:
            raise ArgumentError(f"max_order={order}: expected at most {_ADAMS_MAX_ORDER}")
        if order < _ADAMS_ORDER:
            warnings.warn(f"max_order is below {_ADAMS_ORDER}, so the solver reduces to `rk4`.", stacklevel=6)
            return Fixed("rk4-38").made(options)
        family = self if options.get("implicit", True) else Fixed("adams_bashforth")
        solver: Any = Fixed(family.solver).made(options)
        return attrs.evolve(solver, order=min(order, 8))
