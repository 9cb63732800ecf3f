"""What one plugin brings: its hooks are checked and called, and everything it registers is checked.

Each plugin is tried in a manager of its own, so that nothing of a failed one can linger.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import attrs
import pluggy

from odekit.errors import PluginError, nearest
from odekit.registry import hooks
from odekit.registry.kinds import KINDS, Kind, kind_of

_HOOKS = tuple(kind.hook for kind in KINDS.values())


@attrs.frozen(eq=False)
class Registered:
    """One thing that a plugin brought, and the facts about it."""

    kind: str
    object: Any
    facts: dict[str, Any]


def alone(thing: Any) -> Registered:
    """A class or an instance that is registered without a plugin, checked as things of its kind are.

    Raises:
        PluginError: it is of no kind, or not what its kind must be.
    """
    kind = kind_of(thing)
    return Registered(kind.name, thing, kind.check(thing))


def collect(plugin: object) -> list[Registered]:
    """Everything that ``plugin`` (a module or another object with marked functions) registers.

    Raises:
        PluginError: a hook is misspelt, unmarked or has wrong arguments, or what it registers is not of its kind.
        Exception: whatever the plugin's own code raises.
    """
    check_protocol(plugin)
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    _check_hooks(plugin, _marked(plugin, manager))
    manager.register(plugin)
    found: list[Registered] = []
    for kind in KINDS.values():
        caller = getattr(manager.hook, kind.hook)
        returned = caller(register=_callback(kind, found))
        if returned:
            raise PluginError(
                f"{kind.hook} returned a {type(returned[0]).__name__}. Call register(...) for each thing instead."
            )
    return found


def check_protocol(owner: object) -> None:
    """Whether a plugin, or the package that it is in, is made for this odekit, as far as it says so.

    Raises:
        PluginError: its ``ODEKIT_PROTOCOL`` is another version than :data:`odekit.registry.hooks.PROTOCOL`.
    """
    declared = getattr(owner, "ODEKIT_PROTOCOL", hooks.PROTOCOL)
    if type(declared) is not int:
        raise PluginError(f"ODEKIT_PROTOCOL is {declared!r}; write it as a whole number, {hooks.PROTOCOL}.")
    if declared != hooks.PROTOCOL:
        remedy = "Update odekit." if declared > hooks.PROTOCOL else "Update the plugin, or uninstall it."
        raise PluginError(
            f"it is made for version {declared} of the plugin protocol (ODEKIT_PROTOCOL), "
            f"and this odekit has version {hooks.PROTOCOL}. {remedy}"
        )


def _callback(kind: Kind, found: list[Registered]) -> Callable[[Any], None]:
    def register(thing: Any) -> None:
        found.append(Registered(kind.name, thing, kind.check(thing)))

    return register


def _marked(plugin: object, manager: pluggy.PluginManager) -> dict[str, Callable[..., Any]]:
    """The functions of ``plugin`` that carry the marker, by the name of the hook that they are for."""
    marked = {}
    for attribute in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, attribute)
        if options is not None:
            marked[options.get("specname") or attribute] = getattr(plugin, attribute)
    return marked


def _check_hooks(plugin: object, marked: dict[str, Callable[..., Any]]) -> None:
    for hook, function in marked.items():
        if hook not in _HOOKS:
            raise PluginError(f"no hook is called {hook!r}. {nearest(hook, _HOOKS)}")
        arguments = list(inspect.signature(function).parameters)
        if arguments != ["register"]:
            raise PluginError(f"{hook}({', '.join(arguments)}) has wrong arguments. Write it as {hook}(register).")
    for hook in _HOOKS:
        if hook not in marked and inspect.isroutine(getattr(plugin, hook, None)):
            raise PluginError(f"{hook} is not marked. Put @odekit.hookimpl above it.")
    if not marked:
        raise PluginError(
            "it has no hook. An entry point names a module (or an object) with functions marked @odekit.hookimpl, "
            f"such as {_HOOKS[0]}(register)."
        )
