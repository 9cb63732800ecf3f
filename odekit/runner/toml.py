"""A :class:`~odekit.runner.spec.Spec` as TOML, and changes to it by dotted path.

The options of a chosen thing stand beside its name, and a bare string stands for a name without options::

    seed = 0
    trace = "exact"

    [model]
    name = "ffjord"
    width = 64

    [solver]
    name = "dopri5"
    rtol = 1e-5
"""

from __future__ import annotations

import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import cattrs
import tomli_w
from cattrs.errors import BaseValidationError, ClassValidationError, ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn, override

from odekit.errors import InputError, OptionError, nearest
from odekit.runner.spec import Choice, SolverChoice, Spec

_KEPT: dict[str, tuple[str, ...]] = {
    "model": (),
    "data": (),
    "solver": ("rtol", "atol", "step_size", "control", "max_steps"),
    "gradient": (),
    "trace": (),
    "optimizer": ("lr", "weight_decay"),
    "schedule": (),
}
"""The tables that choose something by name, and their keys that mean the same whatever is chosen."""
_EXCLUSIVE = {"train.epochs": "train.steps", "train.steps": "train.epochs"}


def read(path: Path) -> dict[str, Any]:
    """The tables of a spec file, not yet checked. Relative paths of plugins in it begin at its folder.

    Raises:
        InputError: there is no such file, or it is not TOML.
    """
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from error
    files = given.get("plugins")
    if isinstance(files, list) and all(isinstance(file, str) for file in files):
        given["plugins"] = [str(path.parent / file) for file in files]
    return given


def with_plugins(given: Mapping[str, Any], files: Iterable[Path]) -> dict[str, Any]:
    """The tables with these plugins too."""
    known = given.get("plugins", [])
    fresh = [str(file.resolve()) for file in files]
    return {**given, "plugins": [*known, *(file for file in fresh if file not in known)]} if fresh else dict(given)


def parse(tables: Mapping[str, Any]) -> Spec:
    """The spec that the tables describe.

    Raises:
        OptionError: a key that does not exist, with its path and the nearest one that does.
        InputError: a value that its key does not hold.
    """
    try:
        return _converter.structure(_with_names(tables), Spec)
    except BaseValidationError as error:
        problems = list(_problems(error, ""))
        kind = OptionError if any(isinstance(cause, OptionError) for cause, _ in problems) else InputError
        raise kind("; ".join(text for _, text in problems)) from error


def tables(spec: Spec) -> dict[str, Any]:
    """The tables that describe ``spec``, its defaults included."""
    return _plain(_converter.unstructure(spec))


def dumps(spec: Spec) -> str:
    """The spec as TOML."""
    return tomli_w.dumps(tables(spec))


def changed(given: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The tables with other values at dotted paths such as ``"model.width"``.

    Another name for a chosen thing drops the settings that only the old one had; a length in epochs replaces one in
    steps and the other way round.
    """
    result = {key: _table(key, value) for key, value in given.items()}
    for path, value in sorted(changes.items(), key=lambda change: not change[0].endswith(".name")):
        *above, last = path.split(".")
        inner = result
        for key in above:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                raise OptionError(f"{path}: {key} is not a table but {inner!r}")
        if last == "name" and above and above[0] in _KEPT and inner.get("name") != value:
            for key in set(inner) - set(_KEPT[above[0]]):
                del inner[key]
        if path in _EXCLUSIVE and _EXCLUSIVE[path] not in changes:
            inner.pop(_EXCLUSIVE[path].rpartition(".")[2], None)
        inner[last] = value
    return result


def literal(text: str) -> Any:
    """The value that ``text`` has in TOML, or ``text`` itself where it has none: ``64``, ``[1, 2]``, ``gaussian``."""
    if "\n" in text:
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def structured(value: Any, hint: Any) -> Any:
    """``value`` as the type ``hint`` has it, with nothing but whole numbers widened to real ones, and lists to tuples.

    Raises:
        InputError: it is something else.
    """
    try:
        return _converter.structure(value, hint)
    except BaseValidationError as error:
        raise InputError("; ".join(text for _, text in _problems(error, ""))) from error
    except Exception as error:
        raise InputError(str(error)) from error


def _with_names(given: Mapping[str, Any]) -> dict[str, Any]:
    """The tables, with the default name in those that only say how and not what."""
    defaults = {field.name: field.default.name for field in attrs.fields(Spec) if isinstance(field.default, Choice)}
    return {
        key: {"name": defaults[key], **value} if key in defaults and isinstance(value, dict) else value
        for key, value in given.items()
    }


def _table(key: str, value: Any) -> Any:
    if key in _KEPT and isinstance(value, str):
        return {"name": value}
    return dict(value) if isinstance(value, dict) else value


def _plain(value: Any) -> Any:
    """What TOML can hold: None left out, tuples as lists."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _problems(error: Exception, path: str) -> Iterator[tuple[Exception, str]]:
    """Every leaf of a tree of validation errors, and its sentence with the path to it."""
    if isinstance(error, ForbiddenExtraKeysError):
        known = [field.name for field in attrs.fields(error.cl)]
        for key in sorted(error.extra_fields):
            yield OptionError(key), f"{_joined(path, key)} is not known. {nearest(key, known)}"
    elif isinstance(error, ClassValidationError):
        noted, others = error.group_exceptions()
        for cause, note in noted:
            yield from _problems(cause, _joined(path, note.name))
        for cause in others:
            yield from _problems(cause, path)
    elif isinstance(error, KeyError):
        yield error, f"{path} is missing"
    elif isinstance(error, InputError):
        yield error, _joined(path, str(error))
    else:
        yield error, f"{path}: {error}" if path else str(error)


def _joined(path: str, rest: str) -> str:
    return f"{path}.{rest}" if path else rest


def _strict(kind: type, words: str) -> Callable[[Any, Any], Any]:
    accepted = (int, float) if kind is float else kind

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"expected {words}, got {value!r}")
        return kind(value)

    return structure


def _sequence(hint: Any) -> Callable[[Any, Any], Any]:
    origin, items = typing.get_origin(hint), typing.get_args(hint)
    make = list if origin is list else tuple

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise TypeError(f"expected a list, got {value!r}")
        hints = items[:1] * len(value) if origin is not tuple or items[1:] == (...,) else items
        if len(hints) != len(value):
            raise TypeError(f"expected a list of {len(hints)}, got {value!r}")
        return make(_converter.structure(item, each) for item, each in zip(value, hints, strict=True))

    return structure


def _union(hint: Any) -> Callable[[Any, Any], Any]:
    members = typing.get_args(hint)

    def structure(value: Any, _: Any) -> Any:
        complaints = []
        for member in members:
            if member is type(None):
                if value is None:
                    return None
                continue
            try:
                return _converter.structure(value, member)
            except cattrs.StructureHandlerNotFoundError:
                continue
            except (TypeError, ValueError, BaseValidationError) as error:
                complaints.append(error)
        if len(complaints) == 1:
            raise complaints[0]
        raise TypeError(" or ".join(str(error).partition(", got ")[0] for error in complaints) + f", got {value!r}")

    return structure


def _table_of(cls: type, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    """Reads a table as an attrs class.

    A bare string stands for a table with that name. What a :class:`Choice` does not know itself is among its options.
    """
    structure: Callable[[Any, Any], Any] = make_dict_structure_fn(cls, converter, options=override(struct_hook=_as_is))
    own = {field.name for field in attrs.fields(cls)}
    named, open_ended = "name" in own, issubclass(cls, Choice)

    def read(value: Any, _: Any) -> Any:
        value = {"name": value} if named and isinstance(value, str) else value
        if not isinstance(value, dict):
            raise TypeError(f"expected {'a name or a table with one' if named else 'a table'}, got {value!r}")
        if open_ended:
            known = own - {"options"}
            options = {key: item for key, item in value.items() if key not in known}
            value = {**{key: item for key, item in value.items() if key in known}, "options": options}
        return structure(value, cls)

    return read


def _flat(choice: Choice) -> dict[str, Any]:
    own = attrs.asdict(choice, recurse=False, filter=lambda field, _: field.name != "options")
    return own | choice.options


def _as_is(value: Any, _: Any) -> Any:
    return value


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _is_sequence(hint: Any) -> bool:
    return typing.get_origin(hint) in (list, tuple, typing.get_origin(typing.Sequence[int]))


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    for kind, words in ((bool, "true or false"), (int, "a whole number"), (float, "a number"), (str, "a string")):
        converter.register_structure_hook(kind, _strict(kind, words))
    converter.register_structure_hook_factory(attrs.has, lambda cls: _table_of(cls, converter))
    converter.register_structure_hook_factory(_is_union, _union)
    converter.register_structure_hook_factory(_is_sequence, _sequence)
    return converter


_converter = _make_converter()
for _cls in (Choice, SolverChoice):
    _converter.register_unstructure_hook(_cls, _flat)
