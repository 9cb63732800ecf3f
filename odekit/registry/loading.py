"""Finding the installed plugins and loading them one by one, so that a broken one is a line of text and no more.

Environment variables:
    ODEKIT_LOAD_PLUGINS: unset loads all plugins. Otherwise a comma-separated list of the third-party distributions to
        load; empty leaves odekit's own only, which is the way out when a plugin spoils everything.
    ODEKIT_STRICT: ``1`` turns the first line of text into a :class:`~odekit.errors.PluginError`.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import importlib_metadata

from odekit.errors import PluginError, nearest
from odekit.registry.catalog import FIRST_PARTY, Catalog, Plugin, normalized
from odekit.registry.registration import check_protocol

GROUP = "odekit"
"""The entry-point group of plugins."""

Distribution = Any  # importlib_metadata names its type differently from release to release

_lock = threading.RLock()
_busy = False


def load(path: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> Catalog:
    """A fresh catalog of the plugins installed on ``path`` (``sys.path`` if None).

    What plugins print while they are loaded goes to stderr, so that stdout stays the caller's.

    Raises:
        PluginError: a plugin asked for the catalog while being loaded; or anything is wrong and ODEKIT_STRICT is set.
    """
    environ = os.environ if environ is None else environ
    with _one_at_a_time(), _uncollected(), contextlib.redirect_stdout(sys.stderr):
        loading = _Loading(strict=is_strict(environ))
        found = loading.find(path)
        for point in loading.chosen(found, environ.get("ODEKIT_LOAD_PLUGINS")):
            loading.load(point)
        return loading.catalog


def distributions_with_plugins(path: Sequence[str] | None = None) -> list[str]:
    """The names of the distributions that bring plugins, from their metadata alone: nothing is imported."""
    return sorted({point.distribution for point in _Loading(strict=False).find(path)})


def is_strict(environ: Mapping[str, str]) -> bool:
    """Whether lines of text are to be errors."""
    return environ.get("ODEKIT_STRICT", "") not in ("", "0")


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    global _busy
    with _lock:
        if _busy:
            raise PluginError(
                "the catalog was asked for while it is being made. "
                "A plugin must not look names up (or solve by name) at import: move that into a function."
            )
        _busy = True
        try:
            yield
        finally:
            _busy = False


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage is collected inside: imports make little, and the search goes through all that PyTorch has made."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@attrs.frozen
class _Point:
    """An entry point and where it came from."""

    name: str
    value: str
    distribution: str
    version: str

    @property
    def first_party(self) -> bool:
        return normalized(self.distribution) == FIRST_PARTY

    @property
    def origin(self) -> str:
        return f"{self.distribution} {self.version}"

    def plugin(self, state: str) -> Plugin:
        return Plugin(self.name, self.value, self.distribution, self.version, state)


@attrs.define
class _Loading:
    """One pass over the installed plugins."""

    strict: bool
    catalog: Catalog = attrs.field(factory=Catalog)

    def problem(self, line: str, cause: BaseException | None = None) -> None:
        """Note a line of text, or raise it where that was asked for."""
        if self.strict:
            raise PluginError(line) from cause
        self.catalog.problems.append(line)

    def find(self, path: Sequence[str] | None) -> list[_Point]:
        """The entry points on ``path``: odekit's own first, then by distribution and name."""
        points: list[_Point] = []
        for distribution in _distributions(path):
            try:
                points.extend(_points(distribution))
            except Exception as error:
                self.problem(
                    f"the entry points of {_whose(distribution)} cannot be read: {line_of(error)}. Reinstall it.", error
                )
        if not any(point.first_party for point in points):
            self.problem(
                "odekit's own plugins are missing: odekit is not installed as a distribution here. "
                "Install it, from its folder with `pip install -e .`."
            )
        return sorted(points, key=lambda p: (not p.first_party, normalized(p.distribution), p.name, p.value))

    def chosen(self, points: list[_Point], wish: str | None) -> Iterable[_Point]:
        """The points to load, after a word about names that are asked for in vain or used twice."""
        chosen = points
        if wish is not None:
            installed = {normalized(point.distribution) for point in points}
            wanted = {normalized(name.strip()): name.strip() for name in wish.split(",") if name.strip()}
            for name in sorted(wanted.keys() - installed):
                self.problem(
                    f"ODEKIT_LOAD_PLUGINS asks for {wanted[name]!r}, which brings no odekit plugin. "
                    f"{nearest(name, installed - {FIRST_PARTY})}"
                )
            chosen = [p for p in points if p.first_party or normalized(p.distribution) in wanted]
        self.catalog.plugins.extend(point.plugin("left out") for point in points if point not in chosen)
        self._note_shared_names(chosen)
        return chosen

    def _note_shared_names(self, points: Iterable[_Point]) -> None:
        origins: defaultdict[str, dict[str, str]] = defaultdict(dict)
        for point in points:
            origins[point.name][normalized(point.distribution)] = point.origin
        for name, users in origins.items():
            if len(users) > 1:
                self.problem(
                    f"plugin {name!r} is the name of an entry point in {' and in '.join(users.values())}. "
                    "All are loaded; ask the authors of one to rename theirs."
                )

    def load(self, point: _Point) -> None:
        """Load one plugin; whatever goes wrong becomes a line of text."""
        noted = len(self.catalog.problems)
        try:
            plugin = _resolve(point)
            self.catalog.register_plugin(plugin, point.distribution, point.version, point.name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self.catalog.plugins.append(point.plugin("broken"))
            self.problem(_describe(point, error), error)
            return
        self.catalog.plugins.append(point.plugin("loaded"))
        if self.strict and len(self.catalog.problems) > noted:
            raise PluginError(self.catalog.problems[noted])


def _distributions(path: Sequence[str] | None) -> Iterator[Distribution]:
    """Each distribution with plugins once; the first on the path hides others of its name, as it does for imports.

    The metadata of the others, which may be hundreds, are not read.
    """
    places = list(sys.path if path is None else path)
    seen: set[str] = set()
    for distribution in importlib_metadata.distributions(path=places):
        announced = _announced(distribution)
        if announced is not None and f"[{GROUP}]" not in announced:
            continue
        name = _metadata(distribution, "Name")
        if name is None:
            yield distribution
        elif normalized(name) not in seen:
            seen.add(normalized(name))
            first = next(iter(importlib_metadata.distributions(name=name, path=places)), distribution)
            if _announced(first) == announced:
                yield distribution


def _announced(distribution: Distribution) -> str | None:
    """Its entry points as text; None where they cannot be read."""
    try:
        return distribution.read_text("entry_points.txt") or ""
    except Exception:
        return None


def _metadata(distribution: Distribution, field: str) -> str | None:
    """A field of its metadata; None where they are damaged, as an interrupted installation of anything leaves them."""
    try:
        return distribution.metadata.get(field) or None
    except Exception:
        return None


def _points(distribution: Distribution) -> Iterator[_Point]:
    name, version = _metadata(distribution, "Name"), _metadata(distribution, "Version")
    if not name or not version:
        raise PluginError("its metadata have no name or version")
    for point in distribution.entry_points.select(group=GROUP):
        yield _Point(point.name, point.value, name, version)


def _whose(distribution: Distribution) -> str:
    return _metadata(distribution, "Name") or f"a distribution in {distribution.locate_file('')}"


def _resolve(point: _Point) -> object:
    """The module or object that an entry point names."""
    reference = importlib_metadata.EntryPoint(point.name, point.value, GROUP)
    try:
        module = importlib.import_module(reference.module)
    finally:  # what is made for another odekit may fail in any way; this is why
        for name in (reference.module.partition(".")[0], reference.module):
            check_protocol(sys.modules.get(name))
    attributes = [part for part in (reference.attr or "").split(".") if part]
    try:
        return functools.reduce(getattr, attributes, module)
    except AttributeError:
        raise PluginError(
            f"{reference.module} has no {reference.attr!r}. {nearest(attributes[-1], _public(module))}"
        ) from None


def _public(module: object) -> list[str]:
    return [name for name in vars(module) if not name.startswith("_")]


def _describe(point: _Point, error: BaseException) -> str:
    """One line: the entry point, its distribution and version, what happened, and what to do."""
    where = f"plugin {point.name!r} ({point.value}) of {point.origin}"
    if isinstance(error, PluginError):
        return f"{where}: {text_of(error)}"
    return f"{where}: {line_of(error)}. {_remedy(point, error)}"


def _remedy(point: _Point, error: BaseException) -> str:
    if point.first_party:
        return "Reinstall odekit with its dependencies."
    if isinstance(error, ImportError):
        return f"Install what it imports, or update or uninstall {point.distribution}."
    if isinstance(error, SyntaxError):
        return f"Update or uninstall {point.distribution}; it may be meant for another Python."
    return f"Update or uninstall {point.distribution}, or leave it out with ODEKIT_LOAD_PLUGINS."


def line_of(error: BaseException) -> str:
    """An error on one line, with its type."""
    return f"{type(error).__name__}: {text_of(error)}".rstrip(": .")


def text_of(error: BaseException) -> str:
    """The same without the type."""
    return " ".join(str(error).split())
