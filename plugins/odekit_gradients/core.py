"""Registers the three gradient methods that odekit itself is built on."""

from __future__ import annotations

from collections.abc import Callable

import odekit
from odekit.gradients import Adjoint, Checkpointed, Direct


@odekit.hookimpl
def register_gradient_methods(register: Callable[[type], None]) -> None:
    for method in (Direct, Adjoint, Checkpointed):
        register(method)
