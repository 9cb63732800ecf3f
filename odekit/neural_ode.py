"""An ODE as a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from odekit.core.protocols import GradientMethod, ODESolver
from odekit.core.rows.answer import RowStats, RowStatus
from odekit.core.solution import Solution, Stats, Status
from odekit.errors import OptionError, nearest
from odekit.solving import option_names, solve


class NeuralODE(nn.Module):
    """A layer whose output is the solution of dy/dt = f(t, y, *args) at the end of its time span.

    h(t1) = ODESolve(f, h(t0), t0, t1, θ): Chen et al. 2018, *Neural ordinary differential equations*, Section 3.

    Args:
        f: the vector field; as an ``nn.Module`` its parameters are this layer's.
        t: times, the first t0 and the last t1. An ``nn.Parameter`` is trained along.
        solver, gradient, **options: as in :func:`odekit.solve`.

    Attributes:
        stats: cost of the latest forward pass, with ``nfe_backward`` once its backward pass has run.
        status: how the latest solve ended; worth a look with ``throw=False``.

    Example:
        >>> layer = NeuralODE(lambda t, y: -y, solver="rk4", step_size=0.1)
        >>> layer(torch.ones(2, 3)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        f: Callable[..., Any],
        *,
        t: Any = (0.0, 1.0),
        solver: str | ODESolver = "dopri5",
        gradient: str | GradientMethod = "direct",
        **options: Any,
    ) -> None:
        super().__init__()
        for name in options:
            if name == "args" or name not in option_names():
                raise OptionError(f"NeuralODE has no option {name!r}. {nearest(name, [*option_names(), 't'])}")
        self.f = f
        if isinstance(t, nn.Parameter):
            self.t = t
        else:
            self.register_buffer(
                "t", torch.as_tensor(t, dtype=torch.float64 if not isinstance(t, Tensor) else None), persistent=False
            )
        self.options = {"solver": solver, "gradient": gradient, **options}
        self.stats: Stats | RowStats | None = None
        self.status: Status | RowStatus | None = None

    def forward(self, y0: Any, *args: Any) -> Any:
        """y at the last time (where the solve ended, if it failed under ``throw=False``), nested as ``y0``."""
        return self._solved(y0, args, self.t, {"dense": False, **self.options}).y1

    def solve(self, y0: Any, *args: Any, t: Any = None) -> Solution:
        """The whole :class:`Solution`, at other times than the layer's own if ``t`` is given."""
        return self._solved(y0, args, self.t if t is None else t, self.options)

    def _solved(self, y0: Any, args: tuple[Any, ...], t: Any, options: dict[str, Any]) -> Solution:
        solution = solve(self.f, y0, t, args=args, **options)
        self.stats, self.status = solution.stats, solution.status
        return solution

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())
