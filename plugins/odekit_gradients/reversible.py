"""Registers the gradient method that takes the steps of a solve back."""

from __future__ import annotations

from collections.abc import Callable

import odekit
from odekit.gradients import Reversal


@odekit.hookimpl
def register_gradient_methods(register: Callable[[type], None]) -> None:
    register(Reversal)
