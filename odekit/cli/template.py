"""What `odekit new` writes: a small distribution for every kind, filled in from texts that are shipped with odekit."""

from __future__ import annotations

import contextlib
import importlib.util
import keyword
import re
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from string import Template

import attrs

from odekit.errors import InputError
from odekit.registry import PROTOCOL
from odekit.registry.catalog import normalized

_WHAT = {
    "solver": "A solver",
    "gradient": "A gradient method",
    "trace": "A trace estimator",
    "model": "A model",
    "dynamics": "A vector field",
    "dataset": "A dataset",
}
_NAME = re.compile(r"[A-Za-z][\w.+-]*", re.ASCII)
_DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


@attrs.frozen
class Names:
    """What things are called in a new distribution.

    Attributes:
        name: of what is registered.
        distribution: as pip knows it.

    Raises:
        InputError: one of them is no such name, or what follows from it cannot be a name in Python.
    """

    name: str = attrs.field()
    distribution: str = attrs.field()

    @classmethod
    def of(cls, name: str, distribution: str | None = None) -> Names:
        """The names, with ``odekit-NAME`` where the distribution is not given."""
        return cls(name, distribution or normalized(f"odekit-{_joined(name)}"))

    @name.validator
    def _registered(self, _: object, value: str) -> None:
        if not _NAME.fullmatch(value):
            raise InputError(
                f"the name {value!r}: expected a letter, then letters, digits, '_', '-', '.' and '+'. "
                f"Write it as {_proposal(value)!r}."
            )
        if keyword.iskeyword(self.module):
            raise InputError(f"the name {value!r} is a word of Python. Take another one, such as '{value}1'.")

    @distribution.validator
    def _installable(self, _: object, value: str) -> None:
        if not _DISTRIBUTION.fullmatch(value) or not self.package.isidentifier() or keyword.iskeyword(self.package):
            raise InputError(
                f"the distribution {value!r}: expected a letter, then letters, digits, '-' and '_'. "
                "Write it like 'odekit-mine'."
            )

    @property
    def module(self) -> str:
        """The module that has the class."""
        return _joined(self.name)

    @property
    def package(self) -> str:
        """The package around it."""
        return _joined(self.distribution)

    @property
    def cls(self) -> str:
        """The class, as far as a template does not have that word."""
        return "".join(word[:1].upper() + word[1:] for word in re.split(r"[^A-Za-z0-9]+", self.name))


def _joined(name: str) -> str:
    return re.sub(r"\W+", "_", name).strip("_").lower()


def _proposal(name: str) -> str:
    return re.sub(r"^[^A-Za-z]+", "", re.sub(r"[^\w.+-]+", "-", name, flags=re.ASCII)).strip("-") or "mine"


def files(kind: str, names: Names) -> dict[str, str]:
    """The files of a distribution that brings one thing of a kind, by their paths in its folder."""
    module = f"src/{names.package}/{names.module}.py"
    filled = {
        "pyproject.toml": _text("pyproject.toml"),
        "README.md": _text("README.md").replace("$use", _text(f"{kind}.use").strip()),
        f"src/{names.package}/__init__.py": _text("package"),
        module: _text(kind),
        f"tests/test_{names.module}.py": _text("test"),
    }
    values = _values(kind, names)
    return {path: Template(text).substitute(values) for path, text in filled.items()}


def _text(name: str) -> str:
    return (resources.files(__package__) / "templates" / f"{name}.txt").read_text(encoding="utf-8")


def _values(kind: str, names: Names) -> Mapping[str, object]:
    taken = re.search(rf"\b{names.cls}\b", _text(kind) + _text("test"))
    return {
        "name": names.name,
        "distribution": names.distribution,
        "package": names.package,
        "module": names.module,
        "cls": names.cls + kind.capitalize() if taken else names.cls,
        "kind": kind,
        "plural": kind if kind == "dynamics" else f"{kind}s",
        "suite": f"{kind.capitalize()}Suite",
        "what": _WHAT[kind],
        "protocol": PROTOCOL,
    }


def refuse_taken(names: Names) -> None:
    """Refuse a package that would hide one that is there.

    Raises:
        InputError: there is a package of this name.
    """
    with contextlib.suppress(ValueError):
        if importlib.util.find_spec(names.package) is None:
            return
    raise InputError(
        f"a package {names.package!r} is installed already, and one of the two would hide the other. "
        "Take another name, or another one for the distribution: --distribution my-plugins."
    )


def written(kind: str, names: Names, folder: Path) -> list[Path]:
    """Write the distribution to a folder, all of it or nothing.

    Returns:
        The files.

    Raises:
        InputError: there is something at that place already; it is left as it is.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty, and is left as it is. Choose another folder with --out.")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, and is left as it is. Choose a folder with --out.")
    contents = files(kind, names)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as aside:
        made = Path(aside, folder.name)
        for path, text in contents.items():
            (made / path).parent.mkdir(parents=True, exist_ok=True)
            (made / path).write_text(text, encoding="utf-8")
        made.replace(folder)
    return [folder / path for path in contents]
