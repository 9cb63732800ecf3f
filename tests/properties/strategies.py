"""What the property tests draw from: solvers, linear systems, and the settings of Hypothesis."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from problems import SOLVERS, solver_class
from torch import Tensor

few = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
many = settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
NARROW = (torch.float32, torch.complex64)


@attrs.frozen(eq=False)
class Linear:
    """y' = A y over a span, for a batch of states ``[..., n]``."""

    matrix: Tensor
    y0: Tensor
    span: tuple[float, float]

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        return y @ self.matrix.mT

    def exact(self, t: float) -> Tensor:
        return self.y0 @ torch.linalg.matrix_exp(self.matrix * (t - self.span[0])).mT


@st.composite
def linear_systems(draw: st.DrawFn) -> Linear:
    """Up to four components, batches of up to two axes, all dtypes, both directions; ‖A‖ |t1 - t0| is at most 2."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    dtype = draw(st.sampled_from(DTYPES))
    n = draw(st.integers(1, 4))
    shape = draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    matrix = torch.randn(n, n, dtype=dtype, generator=generator)
    matrix = matrix / torch.linalg.matrix_norm(matrix, 2)
    y0 = torch.randn(*shape, n, dtype=dtype, generator=generator)
    t0 = draw(st.sampled_from([0.0, -3.0, 7.5]))
    length = draw(st.sampled_from([0.125, 0.5, 2.0]))
    return Linear(matrix, y0, (t0, t0 + length * draw(st.sampled_from([1, -1]))))


def steps(name: str, span: tuple[float, float], rtol: float) -> dict[str, Any]:
    """How a solver is to step: by its error, or in 64 equal steps where it estimates none."""
    if solver_class(name).error_order is None:
        return {"step_size": abs(span[1] - span[0]) / 64}
    return {"rtol": rtol, "atol": rtol}


solvers = st.sampled_from(SOLVERS)
