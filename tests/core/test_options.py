from __future__ import annotations

import attrs
import pytest

from odekit.core import options as opt
from odekit.errors import OptionError


@attrs.frozen
class Settings:
    count: int = opt.whole(3)
    limit: int | None = opt.whole(None, at_least=0)
    rate: float = opt.real(0.5, above=0)
    weight: float = opt.real(0.0, at_least=0)
    share: float = opt.fraction(0.1)
    flag: bool = opt.switch(True)
    shape: str = opt.choice("round", ("round", "square"))
    sizes: tuple[int, ...] = opt.widths((64, 64))


def test_defaults_hold_where_nothing_is_given() -> None:
    assert opt.read(Settings, {}, "thing") == Settings()


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("count", 7, 7),
        ("count", 7.0, 7),
        ("limit", 0, 0),
        ("limit", None, None),
        ("rate", 2, 2.0),
        ("weight", 0, 0.0),
        ("share", 0.9, 0.9),
        ("flag", False, False),
        ("shape", "square", "square"),
        ("sizes", "32, 16", (32, 16)),
        ("sizes", [8], (8,)),
        ("sizes", (4, 2), (4, 2)),
        ("sizes", 5, (5,)),
    ],
)
def test_what_a_command_line_can_give_is_taken(name: str, given: object, value: object) -> None:
    read = getattr(opt.read(Settings, {name: given}, "thing"), name)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("count", 0, "a whole number, at least 1"),
        ("count", 1.5, "a whole number"),
        ("count", True, "a whole number"),
        ("count", "many", "a whole number"),
        ("count", None, "a whole number"),
        ("count", float("inf"), "a whole number"),
        ("limit", -1, "at least 0, or nothing"),
        ("rate", 0, "above 0"),
        ("rate", float("nan"), "a finite number"),
        ("weight", -0.1, "at least 0"),
        ("weight", "heavy", "a finite number"),
        ("share", 1.0, "between 0 and 1"),
        ("flag", 1, "true or false"),
        ("flag", "yes", "true or false"),
        ("shape", "oval", "one of round, square"),
        ("shape", ["round"], "one of round, square"),
        ("sizes", "64,wide", "64,64,64"),
        ("sizes", "", "64,64,64"),
        ("sizes", [], "64,64,64"),
        ("sizes", [64, 0], "64,64,64"),
        ("sizes", [64, 1.5], "64,64,64"),
        ("sizes", True, "64,64,64"),
    ],
)
def test_other_values_are_refused_with_what_was_expected(name: str, given: object, expected: str) -> None:
    with pytest.raises(OptionError, match=expected) as caught:
        opt.read(Settings, {name: given}, "thing")
    assert str(caught.value).startswith(f"thing: {name}={given!r}; expected ")


def test_an_unknown_option_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(OptionError, match=r"thing has no option 'cuont'\. Did you mean 'count'\?"):
        opt.read(Settings, {"cuont": 3}, "thing")


def test_something_without_options_says_so() -> None:
    @attrs.frozen
    class Nothing:
        pass

    with pytest.raises(OptionError, match=r"Known: \(none\)"):
        opt.read(Nothing, {"count": 3}, "thing")
