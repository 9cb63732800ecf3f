"""What a check is: one claim about a plugin, measured, and what came of it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs


class Verdict(enum.Enum):
    """What came of a check."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@attrs.frozen
class Measured:
    """What a check found.

    Attributes:
        holds: whether the claim does.
        measured: the finding, in words and numbers.
        expected: what the claim asks for.
        detail: what an author has to know to find the cause.
        numbers: the finding for machines; ``order``, ``digits`` and ``slope`` are columns of ``odekit check``.
    """

    holds: bool
    measured: str
    expected: str
    detail: str = ""
    numbers: Mapping[str, float] = attrs.field(factory=dict)


class NotApplicable(Exception):
    """The claim does not concern this plugin, or cannot be measured here; the message says why."""


@attrs.frozen
class Finding:
    """A check's name and verdict, and what was measured; the fields are those of :class:`Measured`.

    Of a skipped check ``detail`` says why.
    """

    check: str
    verdict: Verdict
    measured: str = ""
    expected: str = ""
    detail: str = ""
    numbers: Mapping[str, float] = attrs.field(factory=dict)

    def __str__(self) -> str:
        parts = [self.measured and f"measured {self.measured}", self.expected and f"expected {self.expected}"]
        said = "; ".join(filter(None, [*parts, self.detail]))
        return f"{self.check}: {said}" if said else self.check


@attrs.frozen
class Check:
    """One claim about plugins of a kind.

    Attributes:
        name: short, for tables and test names.
        claim: the claim as a sentence.
        measure: from the subject (what is tested, ready for use) to what was found. It may raise
            :class:`NotApplicable`; any other exception is a failure.
    """

    name: str
    claim: str
    measure: Callable[[Any], Measured]

    def run(self, subject: Any) -> Finding:
        """Measure; nothing that goes wrong in the plugin gets out of here."""
        try:
            found = self.measure(subject)
        except NotApplicable as why:
            return Finding(self.name, Verdict.SKIPPED, detail=str(why))
        except Exception as error:
            said = " ".join(str(error).split())
            return Finding(self.name, Verdict.FAILED, f"{type(error).__name__}: {said}", "no error", self.claim)
        verdict = Verdict.PASSED if found.holds else Verdict.FAILED
        return Finding(self.name, verdict, found.measured, found.expected, found.detail, found.numbers)


class Checks:
    """The checks of one kind, in the order in which they were written."""

    def __init__(self, *parts: Checks) -> None:
        self._checks = [check for part in parts for check in part]

    def __iter__(self) -> Iterator[Check]:
        return iter(self._checks)

    def add(self, measure: Callable[[Any], Measured]) -> Callable[[Any], Measured]:
        """Make a function a check: its name is that of the check, the first line of its docstring the claim."""
        name = measure.__name__.replace("_", "-")
        self._checks.append(Check(name, (measure.__doc__ or "").partition("\n")[0], measure))
        return measure


@attrs.frozen
class Report:
    """All findings about one plugin.

    Attributes:
        seconds: how long it took.
    """

    name: str
    kind: str
    findings: tuple[Finding, ...]
    seconds: float = 0.0

    @property
    def verdict(self) -> Verdict:
        """FAILED if any check is, SKIPPED if all are, else PASSED."""
        verdicts = {finding.verdict for finding in self.findings}
        if Verdict.FAILED in verdicts:
            return Verdict.FAILED
        return Verdict.PASSED if Verdict.PASSED in verdicts else Verdict.SKIPPED

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The findings that failed."""
        return tuple(finding for finding in self.findings if finding.verdict is Verdict.FAILED)

    def number(self, name: str) -> float | None:
        """A measured number by its name; the worst, which is the least, where several checks give it."""
        found = [finding.numbers[name] for finding in self.findings if name in finding.numbers]
        return min(found) if found else None
