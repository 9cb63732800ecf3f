"""What rounding does over many steps in single precision."""

from __future__ import annotations

import pytest
import torch

from odekit import solve


@pytest.mark.parametrize("solver", ["rk4", "rk4-38", "dopri5", "trbdf2", "sdirk2"])
def test_a_step_rounds_the_state_about_once(solver: str) -> None:
    """All increments are alike here, so that the roundings of 2000 steps add up instead of averaging out."""
    solution = solve(
        lambda t, y: torch.full_like(y, 0.2), torch.tensor([4.0]), [0.0, 2.0], solver=solver, step_size=1e-3
    )
    assert (solution.y1 - 4.4).abs().item() < 2000 * 1.5 * 2.4e-7
