"""A plugin's own options: declared once as a frozen attrs class, read from what the user gave.

>>> @attrs.frozen
... class Options:
...     width: int = whole(64)
...     stem: str = choice("conv", ("conv", "small"))
>>> read(Options, {"width": 32}, "my-model")
Options(width=32, stem='conv')
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import attrs

from odekit.errors import OptionError, nearest

T = TypeVar("T")


@attrs.frozen
class Kind:
    """What an option accepts: ``parse`` makes the value or raises ValueError; ``words`` say what was expected."""

    parse: Callable[[Any], Any]
    words: str


def read(schema: type[T], options: Mapping[str, Any], owner: str) -> T:
    """The options of ``owner`` as an instance of ``schema``, a class whose fields are made by the functions below.

    Raises:
        OptionError: an option that ``schema`` does not have, or a value that it does not accept.
    """
    fields = {field.name: field for field in attrs.fields(schema)}  # type: ignore[arg-type]
    values = {}
    for name, value in options.items():
        if name not in fields:
            raise OptionError(f"{owner} has no option {name!r}. {nearest(name, fields)}")
        kind: Kind = fields[name].metadata[Kind]
        try:
            values[name] = kind.parse(value)
        except (ValueError, TypeError, OverflowError):
            raise OptionError(f"{owner}: {name}={value!r}; expected {kind.words}") from None
    return schema(**values)


def option(default: Any, parse: Callable[[Any], Any], words: str) -> Any:
    """A field of any kind. A default of None may also be given as None, and means that nothing was chosen."""
    if default is None:
        given = parse
        parse, words = (lambda value: None if value is None else given(value)), f"{words}, or nothing"
    return attrs.field(default=default, metadata={Kind: Kind(parse, words)})


def whole(default: int | None, at_least: int = 1) -> Any:
    """A whole number."""

    def parse(value: Any) -> int:
        number = int(_number(value))
        _check(number == value and number >= at_least)
        return number

    return option(default, parse, f"a whole number, at least {at_least}")


def real(default: float | None, at_least: float = -math.inf, above: float = -math.inf) -> Any:
    """A finite number."""
    bounds = [f", {word} {bound:g}" for word, bound in (("at least", at_least), ("above", above)) if bound > -math.inf]

    def parse(value: Any) -> float:
        number = float(_number(value))
        _check(math.isfinite(number) and number >= at_least and number > above)
        return number

    return option(default, parse, "a finite number" + "".join(bounds))


def fraction(default: float) -> Any:
    """A number from 0 to 1, the ends excluded."""

    def parse(value: Any) -> float:
        number = float(_number(value))
        _check(0 < number < 1)
        return number

    return option(default, parse, "a number between 0 and 1")


def switch(default: bool) -> Any:
    """True or false."""

    def parse(value: Any) -> bool:
        _check(isinstance(value, bool))
        return value

    return option(default, parse, "true or false")


def choice(default: str | None, names: Iterable[str]) -> Any:
    """One of some names."""
    names = tuple(names)

    def parse(value: Any) -> str:
        _check(value in names)
        return value

    return option(default, parse, "one of " + ", ".join(names))


def widths(default: tuple[int, ...]) -> Any:
    """Positive whole numbers: ``(64, 64)``, ``[64, 64]``, ``"64,64"`` or, for a single one, ``64``."""

    def parse(value: Any) -> tuple[int, ...]:
        items = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
        _check(len(items) > 0)
        return tuple(_size(item) for item in items)

    return option(default, parse, 'positive whole numbers such as "64,64,64"')


def _size(item: Any) -> int:
    size = int(item)
    _check(size > 0 and (isinstance(item, str) or (size == item and not isinstance(item, bool))))
    return size


def _number(value: Any) -> Any:
    _check(isinstance(value, numbers.Real) and not isinstance(value, bool))
    return value


def _check(ok: bool) -> None:
    if not ok:
        raise ValueError
