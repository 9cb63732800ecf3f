"""What diffrax is given is what everybody else is given; runs where JAX and diffrax are installed."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from benchmarks.problems import NONSTIFF, Problem
from benchmarks.work_precision import DIAGRAMS

pytestmark = pytest.mark.skipif(importlib.util.find_spec("diffrax") is None, reason="diffrax is not installed")
DRAWN = [problem for diagram in DIAGRAMS for problem in diagram.problems]


@pytest.mark.parametrize("problem", DRAWN, ids=str)
def test_f_in_jax_is_f_in_torch(problem: Problem) -> None:
    """Where terms cancel, to the rounding of the largest of them."""
    from benchmarks.in_jax import FIELDS

    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        y = problem.y0 + 0.1 * torch.rand(problem.y0.shape, dtype=torch.float64, generator=generator)
        expected = problem.f(torch.tensor(0.7, dtype=torch.float64), y).numpy()
        rounding = 1e-14 * np.abs(expected).max()
        np.testing.assert_allclose(
            np.asarray(FIELDS[problem.name](0.7, y.numpy())), expected, rtol=1e-12, atol=rounding
        )


def test_every_drawn_problem_is_there() -> None:
    from benchmarks.in_jax import FIELDS

    assert {problem.name for problem in DRAWN} == set(FIELDS)


def test_a_solve_by_diffrax_and_its_calls_of_f() -> None:
    """Dopri5 has seven stages, of which the first is the last of the step before."""
    from benchmarks.in_jax import diffraxs

    crude, fine = (diffraxs(NONSTIFF["B1"], "Dopri5", rtol) for rtol in (1e-4, 1e-8))
    assert 1 < crude.digits < fine.digits - 3
    assert 6 * 50 < crude.nfe < fine.nfe
    assert crude.nfe % 6 == 1
