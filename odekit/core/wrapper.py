"""A solver around another one, of which it has all that it does not change."""

from __future__ import annotations

from typing import Any, Self

import attrs
from torch import Tensor

from odekit.core.protocols import ODESolver, VectorField
from odekit.core.times import Time
from odekit.core.tolerance import Tolerance


@attrs.frozen(eq=False)
class Wrapper(ODESolver):
    """What a wrapped solver is, its wrapper is; the steps are the wrapper's own.

    Attributes:
        solver: what is wrapped.
    """

    solver: ODESolver

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.solver.name

    @property
    def order(self) -> int:  # type: ignore[override]
        return self.solver.order

    @property
    def error_order(self) -> int | None:  # type: ignore[override]
        return self.solver.error_order

    @property
    def dense_order(self) -> int:  # type: ignore[override]
        return self.solver.dense_order

    @property
    def implicit(self) -> bool:  # type: ignore[override]
        return self.solver.implicit

    @property
    def structure(self) -> str:  # type: ignore[override]
        return self.solver.structure

    @property
    def memoryless(self) -> bool:  # type: ignore[override]
        return self.solver.memoryless

    @property
    def rowwise(self) -> bool:  # type: ignore[override]
        return self.solver.rowwise

    def prepared(self, tolerance: Tolerance) -> Self:
        return attrs.evolve(self, solver=self.solver.prepared(tolerance))

    def differentiable(self, times: int) -> Self:
        return attrs.evolve(self, solver=self.solver.differentiable(times))

    def init(self, f: VectorField, t0: Time, y0: Tensor, f0: Tensor | None = None) -> Any:
        return self.solver.init(f, t0, y0, f0)
