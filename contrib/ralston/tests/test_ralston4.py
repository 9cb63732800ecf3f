"""Ralston's fourth-order method is registered, is of order four, and errs less than the classical one."""

from __future__ import annotations

import math
from importlib.metadata import version

import torch
from odekit_ralston import Ralston4

import odekit
from odekit.registry import catalog
from odekit.testing import SolverSuite


class TestRalston4(SolverSuite):
    solver = Ralston4


def test_the_catalog_has_it():
    entry = catalog().entry("solver", "ralston4")
    assert (entry.object, entry.distribution, entry.version) == (Ralston4, "odekit-ralston", version("odekit-ralston"))


def test_the_nodes_are_the_papers():
    """0, 0.4, 0.45573725, 1: the decimals printed in the paper."""
    assert [round(float(c), 8) for c in Ralston4.tableau.c] == [0, 0.4, 0.45573725, 1]


def test_it_errs_less_than_the_classical_method_on_a_field_that_changes_with_time():
    """y' = -2 t y², whose solution is 1 / (1 + t²)."""

    def error(solver):
        y0 = torch.ones(1, dtype=torch.float64)
        y1 = odekit.solve(lambda t, y: -2 * t * y**2, y0, [0.0, 1.0], solver=solver, step_size=0.1).y1
        return math.fabs(y1.item() - 1 / 2)

    assert error("ralston4") < 0.5 * error("rk4")
