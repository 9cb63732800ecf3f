"""SciPy's solvers by name: what they give, count, and refuse."""

from __future__ import annotations

import math

import pytest
import scipy.integrate
import torch
from odekit_scipy.solvers import LSODA, RK45, Radau

import odekit
from odekit.errors import GradientError, InputError
from odekit.registry import catalog
from odekit.testing import SolverSuite

NAMES = ["scipy-rk23", "scipy-rk45", "scipy-dop853", "scipy-radau", "scipy-bdf", "scipy-lsoda"]
DOUBLE = torch.float64


def driven(t, y):
    """y' = -y cos 3t, calling for the right time."""
    return -y * torch.cos(3 * t)


def exact(t):
    return math.exp(-math.sin(3 * t) / 3)


def test_the_catalog_has_them():
    assert {entry.name for entry in catalog().entries("solver") if entry.distribution == "odekit-scipy"} == set(NAMES)


def test_none_of_scipys_is_missing():
    """What ``scipy.integrate`` exports as a solver, by its class."""
    exported = (thing for thing in vars(scipy.integrate).values() if isinstance(thing, type))
    theirs = {solver for solver in exported if issubclass(solver, scipy.integrate.OdeSolver)}
    ours = {getattr(scipy.integrate, catalog().get("solver", name).method) for name in NAMES}
    assert ours == theirs - {scipy.integrate.OdeSolver}


@pytest.mark.parametrize("times", [[0.0, 0.3, 1.1, 2.0], [2.0, 1.1, 0.3, 0.0]], ids=["forwards", "backwards"])
@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_right_in_both_directions(name, times):
    calls = []

    def f(t, y):
        calls.append(float(t))
        return driven(t, y)

    y0 = torch.full((2, 3), exact(times[0]), dtype=DOUBLE)
    solution = odekit.solve(f, y0, times, solver=name, rtol=1e-8, atol=1e-10)
    for t, y in zip(times, solution.ys, strict=True):
        torch.testing.assert_close(y, torch.full_like(y0, exact(t)), rtol=1e-5, atol=1e-6)
    assert solution.stats.nfe == len(calls)
    assert min(calls) >= 0
    assert max(calls) <= 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128])
def test_f_sees_the_dtype_of_the_state(dtype):
    seen = set()

    def f(t, y):
        seen.add((t.dtype, y.dtype))
        return -y

    solution = odekit.solve(f, torch.ones(2, dtype=dtype), [0.0, 1.0], solver="scipy-bdf")
    assert seen == {(dtype.to_real(), dtype)}
    torch.testing.assert_close(solution.y1, torch.full((2,), math.exp(-1), dtype=dtype), rtol=1e-4, atol=1e-4)


def test_times_far_from_zero_keep_their_precision():
    """In float32 the times of this span would all be the same."""
    solution = odekit.solve(
        lambda t, y: 2e3 * (t - 1e6) * torch.ones_like(y), torch.zeros(1, dtype=DOUBLE), [1e6, 1e6 + 1e-3],
        solver="scipy-rk45",
    )  # fmt: skip
    assert solution.y1.item() == pytest.approx(1e-3, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_adjoint_has_gradients_and_direct_says_that_it_has_not(name):
    rate = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)
    y0 = torch.ones(2, dtype=DOUBLE)
    options = {"solver": name, "rtol": 1e-8, "atol": 1e-10}

    def f(t, y):
        return -rate * y

    odekit.solve(f, y0, [0.0, 1.0], gradient="adjoint", **options).y1.sum().backward()
    assert rate.grad.item() == pytest.approx(-2 * math.exp(-0.7), rel=1e-4)
    with pytest.raises(GradientError, match="adjoint"):
        odekit.solve(f, y0, [0.0, 1.0], gradient="direct", **options)
    with torch.no_grad():
        assert odekit.solve(f, y0, [0.0, 1.0], gradient="direct", **options).status.ok


@pytest.mark.parametrize("name", NAMES)
def test_failures_are_statuses(name):
    broken = odekit.solve(
        lambda t, y: torch.full_like(y, math.nan), torch.ones(1, dtype=DOUBLE), [0.0, 1.0], solver=name, throw=False
    )
    assert not broken.status.ok
    singular = odekit.solve(lambda t, y: y**2, torch.ones(1, dtype=DOUBLE), [0.0, 2.0], solver=name, throw=False)
    assert not singular.status.ok


def test_steps_are_bounded():
    solver = catalog().get("solver", "scipy-rk45")(max_steps=3)
    solution = odekit.solve(driven, torch.ones(1, dtype=DOUBLE), [0.0, 50.0], solver=solver, throw=False)
    assert solution.status is odekit.Status.MAX_STEPS
    with pytest.raises(InputError, match="max_steps"):
        type(solver)(max_steps=0)


@pytest.mark.parametrize("name", ["scipy-radau", "scipy-lsoda"])
def test_some_take_no_complex_states(name):
    with pytest.raises(InputError, match="real"):
        odekit.solve(lambda t, y: 1j * y, torch.ones(1, dtype=torch.complex128), [0.0, 1.0], solver=name)


class TestRK45(SolverSuite):
    solver = RK45


class TestRadau(SolverSuite):
    solver = Radau


class TestLSODA(SolverSuite):
    solver = LSODA
