"""The catalog of this process, and what is added to it by hand: plugins in files, and things without a plugin."""

from __future__ import annotations

import functools
import os
from typing import TypeVar

from odekit.errors import NameNotFound, PluginError, nearest
from odekit.registry import files
from odekit.registry.catalog import LOCAL, Catalog, Entry, Plugin
from odekit.registry.loading import is_strict, load
from odekit.registry.registration import alone

_REGISTERED = "odekit.register"
"""What stands for the entry point of things without a plugin."""

Thing = TypeVar("Thing")


@functools.cache
def catalog() -> Catalog:
    """The catalog of the installed plugins, made on first use. ``catalog.cache_clear()`` makes the next call look anew.

    Raises:
        PluginError: with ``ODEKIT_STRICT=1``, if anything is wrong with a plugin.
    """
    return load()


def load_plugin(path: str | os.PathLike[str]) -> tuple[Entry, ...]:
    """Load a plugin that is one Python file with hooks, for this process.

    What it registers is found by its bare names, or as ``local:name`` where something installed has the same name. A
    file that was loaded before takes the place of what it brought then; one that has not changed keeps its classes.

    Returns:
        What it brought.

    Raises:
        PluginError: there is no such file, its code fails, or it breaks a rule; nothing of it is registered then.
    """
    file = files.located(path)
    module = files.imported(file)
    with files.told(file, "fails when it registers"), catalog().all_or_nothing():
        catalog().forget(str(file))
        noted = len(catalog().problems)
        entries = catalog().register_plugin(module, entry_point=str(file))
        catalog().plugins.append(Plugin(file.name, str(file), LOCAL, "", "loaded"))
        _be_strict(noted)
    return entries


def unload_plugin(path: str | os.PathLike[str]) -> None:
    """Take out again what :func:`load_plugin` has brought from this file.

    Raises:
        PluginError: it is not loaded.
    """
    file = files.whole(path)
    if not any((plugin.distribution, plugin.value) == (LOCAL, str(file)) for plugin in catalog().plugins):
        raise PluginError(f"{file} is not loaded; load_plugin loads it")
    catalog().forget(str(file))


def register(thing: Thing) -> Thing:
    """Register a class or an instance for this process, without a plugin; also as a decorator of a class.

    Its kind follows from what it derives from; what derives from none of odekit's protocols and can be called is
    dynamics. It is found by its ``name``, or as ``local:name`` where something installed has that. Registered again,
    as in a notebook's cell that is run twice, it takes the place of the one before.

    Returns:
        What was given.

    Raises:
        PluginError: it is of no kind, or not what its kind must be.
    """
    registered = alone(thing)
    with catalog().all_or_nothing():
        catalog().forget(_REGISTERED, [(registered.kind, registered.object.name)])
        noted = len(catalog().problems)
        catalog().add([registered], LOCAL, "", _REGISTERED)
        _be_strict(noted)
    return thing


def unregister(thing: object) -> None:
    """Take out again what :func:`register` has registered.

    Raises:
        NameNotFound: it is not registered in this way.
    """
    mine = [entry for entry in catalog().entries() if (entry.distribution, entry.entry_point) == (LOCAL, _REGISTERED)]
    found = [(entry.kind, entry.name) for entry in mine if entry.object is thing]
    if not found:
        name = str(getattr(thing, "name", thing))
        raise NameNotFound(
            f"{name!r} has not been registered with odekit.register. {nearest(name, [entry.name for entry in mine])}"
        )
    catalog().forget(_REGISTERED, found)


def _be_strict(noted: int) -> None:
    problems = catalog().problems[noted:]
    if problems and is_strict(os.environ):
        raise PluginError(problems[0])
