"""From a name and its options to the registered thing: classes found in the catalog, their settings checked."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any

import attrs

from odekit.core.control import resolve_control
from odekit.core.protocols import Dataset, Model, ODESolver, Tools
from odekit.errors import InputError, OdekitError, OptionError, nearest
from odekit.registry import catalog, load_plugin
from odekit.runner import toml
from odekit.runner.spec import Choice, Spec

TOOLS = ("solver", "gradient", "trace")
"""The parts of a spec that say how a model is to solve its ODEs."""


@attrs.frozen
class Parts:
    """The classes and tools that a spec names."""

    model: type[Model]
    data: type[Dataset]
    tools: Tools


def find(spec: Spec) -> Parts:
    """Everything that ``spec`` names, ready to be used.

    Raises:
        PluginError: a file among its plugins cannot be loaded.
        NameNotFound: a name that is not registered.
        OptionError: a setting that the chosen thing does not have, or a dataset that is not for the model's task,
            or a choice of how to solve for a model that solves nothing.
        InputError: a setting with a wrong value.
    """
    for file in spec.plugins:
        load_plugin(file)
    model = catalog().get("model", spec.model.name)
    data = catalog().get("dataset", spec.data.name)
    if model.task != data.task:
        entries = (entry for entry in catalog().entries("dataset") if entry.object.task == model.task)
        raise OptionError(
            f"data: {spec.data.name!r} is for {data.task}, the model {spec.model.name!r} for {model.task}. "
            f"Datasets for {model.task}: {', '.join(map(catalog().spelling, entries)) or '(none)'}."
        )
    if not model.solves:
        _check_no_tools(spec)
    solver = _made("solver", spec.solver)
    _check_steps(solver, spec)
    tools = Tools(
        solver=solver,
        gradient=_made("gradient", spec.gradient),
        trace=_made("trace", spec.trace),
        rtol=spec.solver.rtol,
        atol=spec.solver.atol,
        step_size=spec.solver.step_size,
        control=spec.solver.control,
        max_steps=spec.solver.max_steps,
    )
    return Parts(model, data, tools)


def _check_no_tools(spec: Spec) -> None:
    """Raise OptionError if ``spec`` chooses how to solve for a model that solves nothing."""
    usual = attrs.fields_dict(Spec)
    for name in TOOLS:
        if getattr(spec, name) != usual[name].default:
            raise OptionError(
                f"{name}: the model {spec.model.name!r} solves no ODE, so there is nothing to choose; leave it out"
            )


def _check_steps(solver: ODESolver, spec: Spec) -> None:
    try:
        resolve_control(spec.solver.control, spec.solver.step_size, solver)
    except InputError as error:
        raise OptionError(f"solver: {error}") from error


def _made(kind: str, choice: Choice) -> Any:
    """An instance of a registered solver, gradient method or trace estimator, with its settings."""
    thing = catalog().get(kind, choice.name)
    if not isinstance(thing, type):
        _check_names(kind, choice, {})
        return thing
    hints = _settings(thing)
    _check_names(kind, choice, hints)
    settings = {}
    for name, value in choice.options.items():
        try:
            settings[name] = toml.structured(value, hints[name])
        except InputError as error:
            raise InputError(f"{kind}.{name}: {error}") from error
    try:
        return thing(**settings)
    except OdekitError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"{kind}: {choice.name} does not accept {_written(settings)}: {error}") from error


def _check_names(kind: str, choice: Choice, known: Mapping[str, Any]) -> None:
    for name in choice.options:
        if name not in known:
            has = f"has no setting {name!r}. {nearest(name, known)}" if known else "has no settings"
            raise OptionError(f"{kind}.{name}: {choice.name} {has}")


def _settings(cls: type) -> dict[str, Any]:
    """The keyword arguments that make ``cls``, and their types; ``Any`` where a type cannot be told."""
    return {
        name: _evaluated(parameter.annotation, name, cls)
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def _evaluated(annotation: Any, name: str, cls: type) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    home = next((base for base in cls.__mro__ if name in inspect.get_annotations(base)), cls)
    holder = types.SimpleNamespace(__annotations__={name: annotation})
    module = sys.modules.get(home.__module__)
    try:
        return typing.get_type_hints(holder, vars(module) if module else None)[name]
    except Exception:  # only type checkers can make it out, for instance because only they import a name in it
        return Any


def _written(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in settings.items()) or "its own defaults"
