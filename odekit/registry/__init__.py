"""Names for everything exchangeable: the hooks, the catalog, and the guarded loading of plugins.

>>> from odekit.registry import catalog
>>> catalog().get("solver", "dopri5")  # doctest: +SKIP
"""

from __future__ import annotations

import functools

from odekit.registry.catalog import Catalog, Entry, Plugin
from odekit.registry.kinds import KINDS
from odekit.registry.loading import load


@functools.cache
def catalog() -> Catalog:
    """The catalog of the installed plugins, made on first use. ``catalog.cache_clear()`` makes the next call look anew.

    Raises:
        PluginError: with ``ODEKIT_STRICT=1``, if anything is wrong with a plugin.
    """
    return load()


__all__ = ["KINDS", "Catalog", "Entry", "Plugin", "catalog", "load"]
