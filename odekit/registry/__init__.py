"""Names for everything exchangeable: the hooks, the catalog, and the guarded loading of plugins.

>>> from odekit.registry import catalog
>>> catalog().get("solver", "dopri5")  # doctest: +SKIP
"""

from __future__ import annotations

from odekit.registry.catalog import Catalog, Entry, Plugin
from odekit.registry.current import catalog, load_plugin, register, unload_plugin, unregister
from odekit.registry.hooks import PROTOCOL
from odekit.registry.kinds import KINDS
from odekit.registry.loading import load

__all__ = [
    "KINDS", "PROTOCOL", "Catalog", "Entry", "Plugin", "catalog", "load", "load_plugin", "register", "unload_plugin",
    "unregister",
]  # fmt: skip
