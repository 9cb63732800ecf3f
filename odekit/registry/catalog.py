"""The catalog: everything that is registered, by kind and name."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from odekit.errors import NameNotFound, PluginError, nearest
from odekit.registry.kinds import KINDS
from odekit.registry.registration import Registered, collect

FIRST_PARTY = "odekit"
"""The distribution whose things keep their bare names."""

LOCAL = "local"
"""What stands for the distribution of things that come from none: from a file, or from a notebook."""


def normalized(distribution: str) -> str:
    """A distribution's name as packaging tools compare it: lower case, with ``-`` for runs of ``-``, ``_`` and ``.``"""
    return re.sub(r"[-_.]+", "-", distribution).lower()


@attrs.frozen(eq=False)
class Entry:
    """One registered thing.

    Attributes:
        name: its bare name.
        kind: one of :data:`odekit.registry.KINDS`.
        object: the class or instance that was registered.
        distribution: the name of the distribution that brought it.
        version: that distribution's version.
        entry_point: the entry point that brought it.
        summary: the first line of its docstring.
        facts: by kind. solver: order, error_order, adaptive, implicit, structure; gradient: exact, memory;
            trace: exact; model and dataset: task.
    """

    name: str
    kind: str
    object: Any = attrs.field(repr=False)
    distribution: str
    version: str
    entry_point: str
    summary: str = ""
    facts: dict[str, Any] = attrs.field(factory=dict)

    @property
    def qualified(self) -> str:
        """The name that means this one whatever else is installed: ``distribution:name``."""
        return f"{self.distribution}:{self.name}"

    @property
    def first_party(self) -> bool:
        """Whether it came with odekit itself."""
        return normalized(self.distribution) == FIRST_PARTY


@attrs.frozen
class Plugin:
    """An entry point of the group ``odekit``, or a file.

    Attributes:
        name: of the entry point, or of the file.
        value: the module (and object) that the entry point names, or the file's path.
        state: ``loaded``, ``broken`` or ``left out``.
    """

    name: str
    value: str
    distribution: str
    version: str
    state: str


@attrs.define(eq=False)
class Catalog:
    """Everything that is registered.

    A name is written ``bare`` or ``distribution:bare``. A bare name means odekit's own thing where there is one, else
    the only one of that name; where two other distributions use it, it is an error that names both.

    Attributes:
        problems: a line of text for each plugin that could not be loaded and for each name that clashes.
        plugins: the entry points that were found.
    """

    problems: list[str] = attrs.field(factory=list)
    plugins: list[Plugin] = attrs.field(factory=list)
    _entries: list[Entry] = attrs.field(factory=list, init=False, repr=False)

    def get(self, kind: str, name: str) -> Any:
        """The registered class or instance.

        Raises:
            NameNotFound: no such kind or name, or a bare name that two distributions use.
        """
        return self.entry(kind, name).object

    def entry(self, kind: str, name: str) -> Entry:
        """The entry behind a name, as :meth:`get`."""
        distribution, colon, bare = name.rpartition(":")
        same = [entry for entry in self._entries if (entry.kind, entry.name) == (kind, bare)]
        if colon:
            same = [entry for entry in same if normalized(entry.distribution) == normalized(distribution)]
        elif any(entry.first_party for entry in same):
            same = [entry for entry in same if entry.first_party]
        if len(same) == 1:
            return same[0]
        if same:
            same.sort(key=lambda entry: entry.qualified)
            raise NameNotFound(
                f"the {kind} {name!r} is in more than one distribution. "
                f"Write {' or '.join(repr(entry.qualified) for entry in same)}."
            )
        entries = self.entries(kind)
        known = [entry.qualified for entry in entries] if colon else [self.spelling(entry) for entry in entries]
        raise NameNotFound(f"no {kind} is called {name!r}. {nearest(name, known)}{self._about_problems()}")

    def entries(self, kind: str | None = None) -> tuple[Entry, ...]:
        """All entries, or those of one kind: by kind, then by name, odekit's own first.

        Raises:
            NameNotFound: no such kind.
        """
        if kind is not None and kind not in KINDS:
            raise NameNotFound(f"nothing of the kind {kind!r} can be registered. {nearest(kind, KINDS)}")
        order = list(KINDS)
        chosen = [entry for entry in self._entries if kind in (None, entry.kind)]
        return tuple(sorted(chosen, key=lambda e: (order.index(e.kind), e.name, not e.first_party, e.qualified)))

    def spelling(self, entry: Entry) -> str:
        """What a user writes to get ``entry``: its bare name where that is enough."""
        rivals = [e for e in self._entries if (e.kind, e.name) == (entry.kind, entry.name) and e is not entry]
        return entry.name if entry.first_party or not rivals else entry.qualified

    def register_plugin(
        self, plugin: object, distribution: str = LOCAL, version: str = "", entry_point: str | None = None
    ) -> tuple[Entry, ...]:
        """Take in a plugin given as a module or object: all that it registers, or, if anything is wrong, nothing.

        Returns:
            The new entries.

        Raises:
            PluginError: the plugin breaks a rule; the message says which.
            Exception: whatever the plugin's own code raises.
        """
        point = entry_point or str(getattr(plugin, "__name__", type(plugin).__name__))
        return self.add(collect(plugin), distribution, version, point)

    def add(self, things: Iterable[Registered], distribution: str, version: str, entry_point: str) -> tuple[Entry, ...]:
        """The same for things that have been checked one by one."""
        fresh: list[Entry] = []
        for registered in things:
            entry = _entry(registered, distribution, version, entry_point)
            self._check_new(entry, fresh)
            fresh.append(entry)
        self.problems.extend(filter(None, map(self._clash, fresh)))
        self._entries.extend(fresh)
        return tuple(fresh)

    def forget(self, entry_point: str, names: Iterable[tuple[str, str]] | None = None) -> tuple[Entry, ...]:
        """Take out what came from no distribution but by ``entry_point``: all, or these kinds and names.

        Returns:
            What was there.
        """
        mine = [e for e in self._entries if (e.distribution, e.entry_point) == (LOCAL, entry_point)]
        gone = [e for e in mine if names is None or (e.kind, e.name) in names]
        said = [self._clash(entry) for entry in gone]
        self._entries = [entry for entry in self._entries if entry not in gone]
        self.problems[:] = [line for line in self.problems if line not in said]
        self.plugins[:] = [p for p in self.plugins if (p.distribution, p.value) != (LOCAL, entry_point)]
        return tuple(gone)

    @contextlib.contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """What is done to the catalog inside is undone if anything is raised."""
        before = self.problems[:], self.plugins[:], self._entries[:]
        try:
            yield
        except BaseException:
            self.problems[:], self.plugins[:], self._entries[:] = before
            raise

    def _check_new(self, entry: Entry, fresh: list[Entry]) -> None:
        for other in (*self._entries, *fresh):
            if (other.kind, other.name, normalized(other.distribution)) == (
                entry.kind,
                entry.name,
                normalized(entry.distribution),
            ):
                where = f"(entry points {other.entry_point!r} and {entry.entry_point!r})"
                twice = "twice" if other.entry_point == entry.entry_point else f"twice {where}"
                raise PluginError(
                    f"{entry.distribution} registers the {entry.kind} {entry.name!r} {twice}. Rename or remove one."
                )

    def _clash(self, entry: Entry) -> str:
        rivals = [other for other in self.entries(entry.kind) if other.name == entry.name and other is not entry]
        if not rivals:
            return ""
        origin = f"plugin {entry.entry_point!r} of {_distribution(entry.distribution, entry.version)}"
        if any(other.first_party for other in rivals):
            return (
                f"{origin}: odekit has a {entry.kind} {entry.name!r} already. "
                f"Write {entry.qualified!r} for the one of {entry.distribution}."
            )
        choice = " or ".join(repr(other.qualified) for other in (*rivals, entry))
        return f"{origin}: the {entry.kind} {entry.name!r} is in more than one distribution. Write {choice}."

    def _about_problems(self) -> str:
        broken = sum(plugin.state == "broken" for plugin in self.plugins)
        plugins = "1 plugin" if broken == 1 else f"{broken} plugins"
        return f" {plugins} could not be loaded; `odekit list plugins` says why." if broken else ""


def _entry(registered: Registered, distribution: str, version: str, entry_point: str) -> Entry:
    thing = registered.object
    owner = thing if isinstance(thing, type) else type(thing)
    summary = inspect.cleandoc(owner.__doc__ or "").partition("\n")[0]
    return Entry(thing.name, registered.kind, thing, distribution, version, entry_point, summary, registered.facts)


def _distribution(name: str, version: str) -> str:
    return f"{name} {version}".rstrip()
