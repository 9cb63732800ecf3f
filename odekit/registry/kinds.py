"""What each kind of registered thing must be, and the facts that a reader wants to know about it."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any

import attrs

from odekit.errors import PluginError

_PROTOCOLS = "odekit.core.protocols"
_NAME = re.compile(r"\w[\w.+-]*")


@attrs.frozen
class Kind:
    """One kind of thing.

    Attributes:
        name: the kind, in the singular.
        hook: the hook that brings such things.
        base: the class in :mod:`odekit.core.protocols` that they derive from; None where being callable is enough.
        facts: the attributes a reader wants to know, and the type that each must have.
        classes_only: whether a ready instance is no use, because users build their own.
    """

    name: str
    hook: str
    base: str | None = None
    facts: Mapping[str, type | UnionType] = attrs.field(factory=dict)
    classes_only: bool = False

    def check(self, thing: object) -> dict[str, Any]:
        """The facts about ``thing``.

        Raises:
            PluginError: it is not of this kind, is unfinished, or has no valid name.
        """
        label = _label(thing)
        self._check_type(thing, label)
        unfinished = sorted(getattr(_class_of(thing), "__abstractmethods__", ()))
        if unfinished:
            raise PluginError(f"{label} leaves {', '.join(unfinished)} of {self.base} open. Define what is missing.")
        name = _attribute(thing, "name", str, label)
        if not _NAME.fullmatch(name):
            raise PluginError(
                f"{label} has the name {name!r}; a name has letters, digits, '_', '-', '.' and '+', "
                f"starting with a letter or digit. Rename it."
            )
        facts = {fact: _attribute(thing, fact, expected, label) for fact, expected in self.facts.items()}
        if "error_order" in facts:
            facts["adaptive"] = facts["error_order"] is not None
        return facts

    def derives(self, thing: object) -> bool:
        """Whether ``thing`` has the class that things of this kind derive from, where there is one."""
        return self.base is not None and issubclass(
            _class_of(thing), getattr(importlib.import_module(_PROTOCOLS), self.base)
        )

    def _check_type(self, thing: object, label: str) -> None:
        if self.base is None:
            if not _can_be_called(thing):
                raise PluginError(f"{label} cannot be called as f(t, y). Register an nn.Module or a callable class.")
            return
        if not self.derives(thing):
            raise PluginError(
                f"{label} is not a {self.name}: it does not derive from {_PROTOCOLS}.{self.base}. "
                f"Derive from it, or register it in the hook of its own kind."
            )
        if self.classes_only and not isinstance(thing, type):
            raise PluginError(f"{label} is an instance; a {self.name} is registered as a class. Register its class.")


def _class_of(thing: object) -> type:
    return thing if isinstance(thing, type) else type(thing)


def _can_be_called(thing: object) -> bool:
    """Whether instances can be."""
    return any("__call__" in base.__dict__ for base in _class_of(thing).__mro__)


def _label(thing: object) -> str:
    if isinstance(thing, type) or inspect.isroutine(thing):
        return f"{thing.__qualname__}"
    return f"the {type(thing).__qualname__} instance"


def _attribute(thing: object, attribute: str, expected: type | UnionType, label: str) -> Any:
    wanted = getattr(expected, "__name__", str(expected))
    try:
        value = getattr(thing, attribute)
    except AttributeError:
        raise PluginError(f"{label} has no attribute {attribute!r}. Give it one ({wanted}).") from None
    if not isinstance(value, expected):
        raise PluginError(f"{label} has a {attribute!r} of type {type(value).__name__}. It must be {wanted}.")
    return value


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "solver",
            "register_solvers",
            "ODESolver",
            {"order": int, "error_order": int | NoneType, "implicit": bool, "structure": str},
        ),
        Kind("gradient", "register_gradient_methods", "GradientMethod", {"exact": bool, "memory": str}),
        Kind("trace", "register_trace_estimators", "TraceEstimator", {"exact": bool}),
        Kind("model", "register_models", "Model", {"task": str}, classes_only=True),
        Kind("dynamics", "register_dynamics"),
        Kind("dataset", "register_datasets", "Dataset", {"task": str}, classes_only=True),
    )
}
"""Every kind by its name, in the order in which they are listed."""


def kind_of(thing: object) -> Kind:
    """The kind that a class or an instance is of: by what it derives from, else dynamics where it can be called.

    Raises:
        PluginError: it is of no kind.
    """
    for kind in KINDS.values():
        if kind.derives(thing):
            return kind
    if not _can_be_called(thing):
        bases = ", ".join(kind.base for kind in KINDS.values() if kind.base)
        raise PluginError(
            f"{_label(thing)} is of no kind. Derive it from one of {bases} in {_PROTOCOLS}, "
            "or make it callable as f(t, y)."
        )
    return KINDS["dynamics"]
