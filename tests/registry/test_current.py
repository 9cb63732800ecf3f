"""Things without a plugin, as a notebook registers them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import odekit
from odekit.core.protocols import Dataset, GradientMethod, Model, ODESolver, Step, TraceEstimator
from odekit.errors import NameNotFound, PluginError
from odekit.registry import catalog
from odekit.registry.kinds import kind_of


@pytest.fixture(autouse=True)
def _own_catalog() -> Iterator[None]:
    """What a test registers is gone after it."""
    yield
    catalog.cache_clear()


def stub(name: str) -> type[ODESolver]:
    def step(self: Any, f: Any, t0: Any, t1: Any, y0: Any, carry: Any) -> Step:
        return Step(t0, t1, y0, y0 + 1)

    return type("Stub", (ODESolver,), {"name": name, "order": 1, "step": step})


def test_a_class_is_registered_under_its_name() -> None:
    mine = odekit.register(stub("mine"))
    assert catalog().get("solver", "mine") is mine
    assert odekit.solve(lambda t, y: y, torch.ones(1), [0.0, 1.0], solver="mine", step_size=0.5).y1 == 3
    assert catalog().entry("solver", "local:mine").entry_point == "odekit.register"


def test_it_is_a_decorator() -> None:
    @odekit.register
    class Turning:
        name = "turning"

        def __call__(self, t: Any, y: Any) -> Any:
            return torch.stack([y[1], -y[0]])

    assert isinstance(Turning, type)
    assert catalog().get("dynamics", "turning") is Turning


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        ("solver", ODESolver), ("gradient", GradientMethod), ("trace", TraceEstimator), ("model", Model),
        ("dataset", Dataset), ("dynamics", torch.nn.Module),
    ],
)  # fmt: skip
def test_the_kind_follows_from_the_class(kind: str, base: type) -> None:
    assert kind_of(type("Mine", (base,), {})).name == kind


def test_an_instance_keeps_its_settings() -> None:
    solver = stub("tuned")()
    assert odekit.register(solver) is solver
    assert catalog().get("solver", "tuned") is solver


def test_registered_again_it_takes_the_place_of_the_first() -> None:
    odekit.register(stub("mine"))
    odekit.register(stub("other"))
    second = odekit.register(stub("mine"))
    assert catalog().get("solver", "mine") is second
    assert len([entry for entry in catalog().entries() if entry.distribution == "local"]) == 2


def test_it_can_be_taken_out_again() -> None:
    problems = list(catalog().problems)
    mine = odekit.register(stub("euler"))
    assert len(catalog().problems) == len(problems) + 1
    assert catalog().get("solver", "euler") is not mine
    assert catalog().get("solver", "local:euler") is mine
    odekit.unregister(mine)
    assert catalog().problems == problems
    with pytest.raises(NameNotFound, match=r"'euler' has not been registered with odekit\.register"):
        odekit.unregister(mine)


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (dict, "dict is of no kind. Derive it from one of ODESolver, GradientMethod, .* or make it callable"),
        (3, "the int instance is of no kind"),
        (lambda t, y: y, "has no attribute 'name'"),
        (ODESolver, "ODESolver leaves step of ODESolver open"),
        (stub("a name"), "has the name 'a name'"),
    ],
)
def test_what_is_no_such_thing_is_refused(thing: Any, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        odekit.register(thing)
    assert not [entry for entry in catalog().entries() if entry.distribution == "local"]


def test_strict_refuses_a_clash(monkeypatch: pytest.MonkeyPatch) -> None:
    catalog()
    monkeypatch.setenv("ODEKIT_STRICT", "1")
    with pytest.raises(PluginError, match="'local:euler'"):
        odekit.register(stub("euler"))
    assert not [entry for entry in catalog().entries() if entry.distribution == "local"]
