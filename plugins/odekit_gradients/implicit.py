"""Registers gradients of steady states."""

from __future__ import annotations

from collections.abc import Callable

import odekit
from odekit.gradients import Implicit


@odekit.hookimpl
def register_gradient_methods(register: Callable[[type], None]) -> None:
    register(Implicit)
