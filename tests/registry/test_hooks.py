"""Every hook is there, documented with its exact signature, and belongs to a kind."""

from __future__ import annotations

import inspect

import pytest
from test_catalog import STUBS

from odekit.cli.template import Names, files
from odekit.core import protocols
from odekit.registry import KINDS, hooks
from odekit.testing import SUITES

SPECS = {name: value for name, value in vars(hooks).items() if hasattr(value, f"{hooks.PROJECT}_spec")}


def test_each_kind_has_one_hook_and_each_hook_one_kind() -> None:
    assert sorted(kind.hook for kind in KINDS.values()) == sorted(SPECS)


@pytest.mark.parametrize("hook", SPECS)
def test_each_hook_is_tested(hook: str) -> None:
    (kind,) = [kind.name for kind in KINDS.values() if kind.hook == hook]
    assert kind in STUBS, "what it brings is registered in test_catalog.py"
    assert SUITES[kind].checks, "what it brings has something to prove"
    assert files(kind, Names.of("mine")), "odekit new writes it"


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_a_hook_documents_its_exact_signature(kind) -> None:
    hook = SPECS[kind.hook]
    signature = inspect.signature(hook)
    assert list(signature.parameters) == ["register"]
    assert signature.return_annotation == "None"
    base = kind.base or "Dynamics"
    assert hasattr(protocols, base)
    accepted = f"type[{base}]" if kind.classes_only else f"type[{base}] | {base}"
    first, blank, *body = inspect.getdoc(hook).splitlines()
    assert first == f"``{kind.hook}(register: Callable[[{accepted}], None]) -> None``"
    assert blank == ""
    assert body[0].startswith("Bring ")
