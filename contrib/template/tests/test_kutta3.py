"""Kutta's method solves, by name, and converges at the order it claims."""

from __future__ import annotations

import math
from importlib.metadata import version

import pytest
import torch
from odekit_template.kutta3 import Kutta3

import odekit
from odekit.registry import catalog


def error(f, y0, exact, step_size):
    """The error at t = 1 in float64."""
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    y0 = torch.tensor([y0], dtype=torch.float64)
    solution = odekit.solve(f, y0, t, solver="kutta3", step_size=step_size)
    return abs(solution.ys[-1].item() - exact)


def test_the_catalog_has_it():
    entry = catalog().entry("solver", "kutta3")
    assert (entry.object, entry.distribution, entry.version) == (Kutta3, "odekit-template", version("odekit-template"))


@pytest.mark.parametrize(
    ("f", "y0", "exact"),
    [
        pytest.param(lambda t, y: -y, 1.0, math.exp(-1), id="autonomous"),
        pytest.param(lambda t, y: -y * torch.cos(3 * t), 1.0, math.exp(-math.sin(3) / 3), id="depends on time"),
    ],
)
def test_the_order_is_three(f, y0, exact):
    order = math.log2(error(f, y0, exact, 1 / 32) / error(f, y0, exact, 1 / 64))
    assert order == pytest.approx(Kutta3.order, abs=0.15)
