"""Tsitouras's pair, which makes way for Rodas5P while the problem is stiff."""

from __future__ import annotations

from collections.abc import Callable

import odekit
from odekit.core.switching import Switching
from odekit_solvers.rodas5p import Rodas5P
from odekit_solvers.tsit5 import Tsit5


class AutoTsit5(Switching):
    """Tsit5 while the problem is not stiff, Rodas5P while it is, both of orders 5(4); it switches by itself.

    Tsitouras 2011 and Steinebach 2023, as cited for either; when to switch is in
    :class:`~odekit.core.switching.Switching`.
    """

    name = "auto_tsit5"
    nonstiff = Tsit5
    stiff = Rodas5P


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(AutoTsit5)
