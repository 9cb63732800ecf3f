"""The hooks that a plugin fills in, one for each kind, and the two markers.

A plugin is a module (or any object) with functions marked :data:`hookimpl` and named after the hooks below. It is
announced by an entry point in the group ``odekit``. Each hook is called once, when the catalog is made, with one
callback; the plugin calls it for everything it brings and returns nothing::

    @odekit.hookimpl
    def register_solvers(register):
        register(Kutta3)

Whatever is registered carries its name in the attribute ``name``. A plugin comes in whole or, if anything about it is
wrong, not at all. ``ODEKIT_PROTOCOL = 1`` in its module, or in the package around that, says for which version of the
hooks and protocols it is made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pluggy

PROJECT = "odekit"

PROTOCOL = 1
"""The version of the hooks and of what odekit asks of registered things; a plugin may say which one it is made for."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

Register = Callable[[Any], None]


@hookspec
def register_solvers(register: Register) -> None:
    """``register_solvers(register: Callable[[type[ODESolver] | ODESolver], None]) -> None``

    Bring solvers: subclasses of :class:`odekit.core.protocols.ODESolver`, or ready instances of them.
    """


@hookspec
def register_gradient_methods(register: Register) -> None:
    """``register_gradient_methods(register: Callable[[type[GradientMethod] | GradientMethod], None]) -> None``

    Bring gradient methods: subclasses of :class:`odekit.core.protocols.GradientMethod`, or ready instances of them.
    """


@hookspec
def register_trace_estimators(register: Register) -> None:
    """``register_trace_estimators(register: Callable[[type[TraceEstimator] | TraceEstimator], None]) -> None``

    Bring trace estimators: subclasses of :class:`odekit.core.protocols.TraceEstimator`, or ready instances of them.
    """


@hookspec
def register_models(register: Register) -> None:
    """``register_models(register: Callable[[type[Model]], None]) -> None``

    Bring models: subclasses of :class:`odekit.core.protocols.Model`.
    """


@hookspec
def register_dynamics(register: Register) -> None:
    """``register_dynamics(register: Callable[[type[Dynamics] | Dynamics], None]) -> None``

    Bring vector fields: ``nn.Module`` subclasses or other classes whose instances are called as ``f(t, y, *args)``,
    or ready instances of them, each with a ``name``.
    """


@hookspec
def register_datasets(register: Register) -> None:
    """``register_datasets(register: Callable[[type[Dataset]], None]) -> None``

    Bring datasets: subclasses of :class:`odekit.core.protocols.Dataset`.
    """
