"""Registers the symplectic adjoint method."""

from __future__ import annotations

from collections.abc import Callable

import odekit
from odekit.gradients import Symplectic


@odekit.hookimpl
def register_gradient_methods(register: Callable[[type], None]) -> None:
    register(Symplectic)
