"""Registers the rule that picks a gradient method."""

from __future__ import annotations

from collections.abc import Callable

import odekit
from odekit.gradients import Auto


@odekit.hookimpl
def register_gradient_methods(register: Callable[[type], None]) -> None:
    register(Auto)
