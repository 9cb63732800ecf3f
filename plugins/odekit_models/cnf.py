"""One continuous normalizing flow: a change of variables by an ODE, and how it changes volumes."""

from __future__ import annotations

import math
from typing import Any

import attrs
import torch
from torch import Tensor, nn

import odekit
from odekit.core.protocols import Tools, TraceEstimator
from odekit.core.rows.answer import RowStats
from odekit.core.solution import Stats

PENALTIES = ("kinetic", "frobenius")
"""What can be integrated along the paths beside the trace: ``‖f‖²`` and ``‖∂f/∂z‖_F²`` (Finlay et al. 2020, *How to
train your neural ODE: the world of Jacobian and kinetic regularization*)."""


class FlowField(nn.Module):
    """d/dt of ``(z, ∫ tr ∂f/∂z dt, ∫ penalty dt, ...)``, from one evaluation of f.

    Args:
        field: f, called as ``field(t, z)`` with ``z [B, D]``.
        trace: how the trace is found.
        penalties: names in :data:`PENALTIES`, in the order of their integrals in the state.
    """

    def __init__(self, field: nn.Module, trace: TraceEstimator, penalties: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.field = field
        self.trace = trace
        self.penalties = penalties

    def forward(self, t: Tensor, state: tuple[Tensor, ...], noise: Tensor | None = None) -> tuple[Tensor, ...]:
        """``state`` is ``(z [B, D], then one integral [B] each)``; ``noise`` was drawn for this solve."""
        z = state[0]
        rates = {}
        if "frobenius" in self.penalties:
            dz, trace, rates["frobenius"] = self.trace.with_frobenius(self.field, t, z, noise)
        else:
            dz, trace = self.trace(self.field, t, z, noise)
        if "kinetic" in self.penalties:
            rates["kinetic"] = dz.square().sum(1)
        return dz, trace, *(rates[name] for name in self.penalties)


@attrs.frozen(eq=False)
class Transport:
    """Where points went, and what happened on the way.

    Attributes:
        z: the points at the end, ``[B, D]``.
        log_volume: ``∫ tr ∂f/∂z dt [B]``: the logarithm of the factor by which volumes grew.
        penalties: integrals along the paths ``[B]``, by name.
    """

    z: Tensor
    log_volume: Tensor
    penalties: dict[str, Tensor]


@attrs.frozen(eq=False)
class _Mode:
    """How to solve, and how to find the trace."""

    trace: TraceEstimator
    options: dict[str, Any]

    @classmethod
    def of(cls, tools: Tools) -> _Mode:
        return cls(odekit.trace_named(tools.trace), tools.solve_options())


class CNF(nn.Module):
    """A flow that carries data at t = 0 to the base at t = T.

    Along a path d log p(z(t)) / dt = -tr ∂f/∂z, so that log p₀(z(0)) = log p_T(z(T)) + ∫₀ᵀ tr ∂f/∂z dt (Chen et al.
    2018, *Neural ordinary differential equations*, theorem 1).

    Args:
        field: f, called as ``field(t, z)`` with ``z [B, D]``.
        training, evaluation: how its ODEs are solved and their traces found in either mode.
        end_time: T; its square root is learnt if ``learn_end_time``.

    Attributes:
        stats: cost of the latest solve.
    """

    def __init__(
        self,
        field: nn.Module,
        training: Tools,
        evaluation: Tools,
        end_time: float = 0.5,
        learn_end_time: bool = True,
    ) -> None:
        super().__init__()
        self.field = field
        self.modes = {True: _Mode.of(training), False: _Mode.of(evaluation)}
        self.root_end_time = nn.Parameter(torch.tensor(math.sqrt(end_time)), requires_grad=learn_end_time)
        self.stats: Stats | RowStats | None = None

    @property
    def end_time(self) -> Tensor:
        """T, a 0-d tensor."""
        return self.root_end_time.square()

    def forward(
        self, z: Tensor, generator: torch.Generator | None = None, penalties: tuple[str, ...] = ()
    ) -> Transport:
        """From t = 0 to T. ``generator`` draws the noise of the trace, once for the whole solve."""
        trace = self.modes[self.training].trace
        noise = trace.draw(z, generator)
        nothing = z.new_zeros(z.shape[0])
        state = (z, nothing, *(nothing for _ in penalties))
        flow = FlowField(self.field, trace, penalties)
        z, log_volume, *integrals = self._solve(flow, state, backwards=False, args=() if noise is None else (noise,))
        return Transport(z, log_volume, dict(zip(penalties, integrals, strict=True)))

    def inverse(self, z: Tensor) -> Tensor:
        """From t = T to 0."""
        return self._solve(self.field, z, backwards=True)

    def _solve(self, f: nn.Module, state: Any, backwards: bool, args: tuple[Tensor, ...] = ()) -> Any:
        end = self.end_time
        span = [end, torch.zeros_like(end)] if backwards else [torch.zeros_like(end), end]
        solution = odekit.solve(
            f, state, torch.stack(span), args=args, dense=False, **self.modes[self.training].options
        )
        self.stats = solution.stats
        return solution.y1
