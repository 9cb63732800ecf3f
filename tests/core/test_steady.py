"""The event that a solve has come to rest."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from problems import DOUBLE
from torch import Tensor

from odekit import Status, solve, steady_state
from odekit.errors import InputError

RATES = torch.tensor([[1.0], [3.0]], dtype=DOUBLE)


def settling(t: Tensor, y: Tensor, rates: Tensor = RATES) -> Tensor:
    return rates * (1 - y)


@pytest.mark.parametrize("solver", ["dopri5", pytest.param("kvaerno3", marks=pytest.mark.slow)])
def test_it_happens_where_the_slope_is_as_small_as_asked_for(solver: str) -> None:
    """y = 1 - exp(-t), whose slope exp(-t) is (atol + rtol y) at t = -log(atol + rtol), all but."""
    event = steady_state(lambda t, y: 1 - y, rtol=1e-4, atol=1e-5)
    solution = solve(lambda t, y: 1 - y, torch.zeros(3, dtype=DOUBLE), [0.0, math.inf], events=event, solver=solver)
    assert solution.status is Status.EVENT
    assert float(solution.t1) == pytest.approx(-math.log(1.1e-4), rel=1e-3)


@pytest.mark.parametrize("solver", ["dopri5", pytest.param("bdf", marks=pytest.mark.slow)])
def test_rows_come_to_rest_each_by_itself(solver: str) -> None:
    event = steady_state(settling, rtol=1e-4, atol=1e-5)
    options: dict[str, Any] = {"args": (RATES,), "solver": solver, "batch": "rows", "rtol": 1e-8, "atol": 1e-10}
    solution = solve(settling, torch.zeros(2, 1, dtype=DOUBLE), [0.0, 50.0], events=event, **options)
    expected = [-math.log(1.1e-4 / rate) / rate for rate in (1.0, 3.0)]
    assert solution.t1.tolist() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("batch", ["shared", "rows"])
@pytest.mark.parametrize("away", [0.0, 1e-9])
def test_a_start_at_rest_ends_in_the_first_step(away: float, batch: str) -> None:
    t = [0.5, math.inf] if batch == "shared" else [0.5, 50.0]
    y0 = torch.full((2, 1), 1 + away, dtype=DOUBLE)
    solution = solve(settling, y0, t, events=steady_state(settling, rtol=1e-6), args=(RATES,), batch=batch)
    assert int(torch.as_tensor(solution.stats.steps).max()) == 1
    assert float(torch.as_tensor(solution.t1).max()) == pytest.approx(0.5, abs=0.2)
    torch.testing.assert_close(solution.y1, y0, rtol=0, atol=1e-8)


def test_nested_states_and_gradients() -> None:
    """`direct` sees a time that does not move, and is right to the tolerance of the event."""
    goal = torch.tensor(2.0, dtype=DOUBLE, requires_grad=True)

    def f(t: Tensor, y: Any) -> Any:
        return {"a": goal - y["a"], "b": (3 * (y["a"].sum() - y["b"][0]),)}

    y0 = {"a": torch.zeros(2, dtype=DOUBLE), "b": (torch.zeros((), dtype=DOUBLE),)}
    solution = solve(f, y0, [0.0, math.inf], events=steady_state(f), args=())
    (grad,) = torch.autograd.grad(solution.y1["b"][0], goal)
    assert float(grad) == pytest.approx(2.0, rel=1e-5)


@pytest.mark.parametrize(
    "options", [{"rtol": -1.0}, {"atol": "small"}, {"rtol": math.nan}, {"rtol": True}, {"rtol": 0, "atol": 0}], ids=str
)
def test_settings_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="steady_state"):
        steady_state(settling, **options)
    with pytest.raises(InputError, match="vector field"):
        steady_state(1.0)  # type: ignore[arg-type]
