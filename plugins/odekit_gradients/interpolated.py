"""Registers the continuous adjoint on the forward dense output."""

from __future__ import annotations

from collections.abc import Callable

import odekit
from odekit.gradients import Interpolated


@odekit.hookimpl
def register_gradient_methods(register: Callable[[type], None]) -> None:
    register(Interpolated)
