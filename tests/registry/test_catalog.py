"""Names: bare, qualified, clashing, unknown; what an entry knows; what each kind must be."""

from __future__ import annotations

import abc
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import odekit
from odekit.core.protocols import (
    Data,
    Dataset,
    DensityModel,
    GradientMethod,
    Model,
    ODESolver,
    Outcome,
    Step,
    TraceEstimator,
)
from odekit.errors import NameNotFound, PluginError
from odekit.registry import KINDS, Catalog
from odekit.registry.hooks import hookimpl


class Stub(ODESolver):
    """Stays where it is.

    Further lines are for those who read on.
    """

    name = "stub"
    order = 2

    def step(self, f: Any, t0: Any, t1: Any, y0: Any, carry: Any) -> Step:
        return Step(t0, t1, y0, y0)


class StubGradient(GradientMethod):
    name = "stub"
    exact = True
    memory = "none"

    def solve(self, problem: Any, solver: Any, control: Any) -> Outcome:
        raise NotImplementedError


class StubTrace(TraceEstimator):
    name = "stub"
    exact = False

    def __call__(self, f: Any, t: Any, y: Any, noise: Any = None) -> Any:
        return f(t, y), y.sum(-1)


class StubModel(DensityModel):
    name = "stub"

    @classmethod
    def build(cls, shape: Any, classes: Any, tools: Any, **options: Any) -> Model:
        return cls()

    def log_prob(self, x: Any, generator: Any = None) -> Any:
        return x.sum(-1)

    def sample(self, n: int, generator: Any = None) -> Any:
        return torch.zeros(n, 2)


class StubDataset(Dataset):
    name = "stub"
    task = "density"

    @classmethod
    def load(cls, folder: Any, seed: int, **options: Any) -> Data:
        raise NotImplementedError


class StubField(nn.Module):
    name = "stub"

    def forward(self, t: Any, y: Any) -> Any:
        return -y


STUBS = {
    "solver": (Stub, {"order": 2, "error_order": None, "adaptive": False, "implicit": False, "structure": "general"}),
    "gradient": (StubGradient, {"exact": True, "memory": "none"}),
    "trace": (StubTrace, {"exact": False}),
    "model": (StubModel, {"task": "density"}),
    "dynamics": (StubField, {}),
    "dataset": (StubDataset, {"task": "density"}),
}


def plugin(kind: str, *things: Any) -> types.ModuleType:
    """A plugin that registers ``things``, all of one kind."""

    def hook(register: Callable[[Any], None]) -> None:
        for thing in things:
            register(thing)

    module = types.ModuleType("stubs")
    setattr(module, KINDS[kind].hook, hookimpl(hook))
    return module


def named(name: str) -> type[Stub]:
    return type("Named", (Stub,), {"name": name})


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_registered_through_its_hook(kind: str) -> None:
    thing, facts = STUBS[kind]
    catalog = Catalog()
    [entry] = catalog.register_plugin(plugin(kind, thing), "some-dist", "1.2")
    assert catalog.get(kind, "stub") is thing
    assert catalog.entry(kind, "some-dist:stub") is entry
    assert catalog.entries() == catalog.entries(kind) == (entry,)
    assert (entry.name, entry.kind, entry.distribution, entry.version) == ("stub", kind, "some-dist", "1.2")
    assert entry.entry_point == "stubs"
    assert entry.facts == facts
    assert all(catalog.entries(other) == () for other in KINDS if other != kind)


def test_the_summary_is_the_first_line_of_the_things_own_docstring() -> None:
    catalog = Catalog()
    catalog.register_plugin(plugin("solver", Stub, named("bare")))
    assert catalog.entry("solver", "stub").summary == "Stays where it is."
    assert catalog.entry("solver", "bare").summary == ""


def test_a_ready_instance_keeps_its_settings() -> None:
    solver = Stub()
    solver.name, solver.order = "tuned", 7
    catalog = Catalog()
    catalog.register_plugin(plugin("solver", solver))
    assert catalog.get("solver", "tuned") is solver
    assert catalog.entry("solver", "tuned").facts["order"] == 7
    assert catalog.entry("solver", "tuned").summary == "Stays where it is."


def test_an_adaptive_solver_is_known_by_its_error_order() -> None:
    catalog = Catalog()
    catalog.register_plugin(plugin("solver", type("Pair", (Stub,), {"name": "pair", "error_order": 1})))
    assert catalog.entry("solver", "pair").facts == {
        "order": 2, "error_order": 1, "adaptive": True, "implicit": False, "structure": "general",
    }  # fmt: skip


def test_a_bare_name_means_the_first_party() -> None:
    catalog = Catalog()
    theirs, ours = named("euler"), named("euler")
    catalog.register_plugin(plugin("solver", theirs), "their-dist", "1")
    catalog.register_plugin(plugin("solver", ours), "odekit", "0.1.0")
    assert catalog.get("solver", "euler") is ours
    assert catalog.get("solver", "odekit:euler") is ours
    assert catalog.get("solver", "Their_Dist:euler") is theirs
    assert [catalog.spelling(entry) for entry in catalog.entries()] == ["euler", "their-dist:euler"]


def test_a_bare_name_of_two_strangers_is_an_error_that_names_both() -> None:
    catalog = Catalog()
    one, two = named("twin"), named("twin")
    catalog.register_plugin(plugin("solver", one), "a-dist", "1")
    assert catalog.get("solver", "twin") is one
    assert catalog.problems == []
    catalog.register_plugin(plugin("solver", two), "b-dist", "2")
    [line] = catalog.problems
    assert "plugin 'stubs' of b-dist 2" in line
    assert "'a-dist:twin' or 'b-dist:twin'" in line
    with pytest.raises(NameNotFound, match=r"more than one distribution.*'a-dist:twin' or 'b-dist:twin'"):
        catalog.get("solver", "twin")
    assert catalog.get("solver", "a-dist:twin") is one
    assert catalog.get("solver", "b-dist:twin") is two


def test_the_same_name_in_two_kinds_is_no_clash() -> None:
    catalog = Catalog()
    catalog.register_plugin(plugin("solver", Stub), "a", "1")
    catalog.register_plugin(plugin("trace", StubTrace), "b", "1")
    assert catalog.problems == []
    assert catalog.get("solver", "stub") is Stub


@pytest.mark.parametrize(
    ("kind", "name", "hint"),
    [
        ("solver", "dopri", "no solver is called 'dopri'. Did you mean 'dopri5'? Known: dopri5, my:rk4."),
        ("solver", "my:rk5", "Did you mean 'my:rk4'? Known: my:rk4, odekit:dopri5, odekit:rk4."),
        ("solver", "", "no solver is called ''. Known: dopri5, my:rk4"),
        ("solvr", "rk4", "the kind 'solvr'"),
        ("solvr", "rk4", "Did you mean 'solver'?"),
        ("trace", "exact", "Known: (none)."),
    ],
)
def test_unknown_names_offer_the_nearest(kind: str, name: str, hint: str) -> None:
    catalog = Catalog()
    catalog.register_plugin(plugin("solver", named("dopri5"), named("rk4")), "odekit", "0.1.0")
    catalog.register_plugin(plugin("solver", named("rk4")), "my", "1")
    with pytest.raises(NameNotFound) as raised:
        catalog.get(kind, name)
    assert hint.replace("dopri5, my:rk4", "dopri5, my:rk4, rk4") in str(raised.value)


def test_entries_are_sorted() -> None:
    catalog = Catalog()
    catalog.register_plugin(plugin("trace", StubTrace))
    catalog.register_plugin(plugin("solver", named("b"), named("a")))
    catalog.register_plugin(plugin("solver", named("b")), "odekit", "0.1.0")
    assert [entry.qualified for entry in catalog.entries()] == ["local:a", "odekit:b", "local:b", "local:stub"]


def test_a_plugin_that_fails_half_way_leaves_nothing() -> None:
    catalog = Catalog()
    broken = plugin("solver", Stub)

    @odekit.hookimpl
    def register_datasets(register: Callable[[Any], None]) -> None:
        register(StubDataset)
        raise OSError("no files")

    broken.register_datasets = register_datasets
    with pytest.raises(OSError, match="no files"):
        catalog.register_plugin(broken)
    assert catalog.entries() == ()


def test_the_same_plugin_twice_is_an_error() -> None:
    catalog = Catalog()
    catalog.register_plugin(plugin("solver", Stub))
    with pytest.raises(PluginError, match="local registers the solver 'stub' twice"):
        catalog.register_plugin(plugin("solver", named("other"), Stub))
    assert [entry.name for entry in catalog.entries()] == ["stub"]


class Callable_:
    name = "ready"

    def __call__(self, t: Any, y: Any) -> Any:
        return y


class NotCallable:
    name = "passive"


class Unfinished(Stub):
    name = "unfinished"

    @abc.abstractmethod
    def missing(self) -> None: ...


@pytest.mark.parametrize("thing", [Callable_, Callable_(), StubField, StubField()])
def test_dynamics_are_callable_classes_or_instances(thing: Any) -> None:
    catalog = Catalog()
    catalog.register_plugin(plugin("dynamics", thing))
    assert catalog.get("dynamics", thing.name) is thing


@pytest.mark.parametrize(
    ("kind", "thing", "message"),
    [
        ("dynamics", NotCallable, "NotCallable cannot be called as f"),
        ("dynamics", NotCallable(), "the NotCallable instance cannot be called as f"),
        ("dynamics", lambda t, y: y, "has no attribute 'name'"),
        ("solver", StubTrace, "StubTrace is not a solver: it does not derive from odekit.core.protocols.ODESolver"),
        ("solver", 3, "the int instance is not a solver"),
        ("solver", Unfinished, "Unfinished leaves missing of ODESolver open"),
        ("solver", named("has space"), "has the name 'has space'"),
        ("solver", named(""), "has the name ''"),
        ("solver", named("-x"), "has the name '-x'"),
        ("solver", type("Named", (Stub,), {"name": 5}), "'name' of type int. It must be str"),
        ("solver", type("Odd", (Stub,), {"error_order": 1.5}), "'error_order' of type float. It must be int | None"),
        ("model", StubModel(), "the StubModel instance is an instance; a model is registered as a class"),
    ],
)
def test_what_is_not_of_its_kind_is_refused(kind: str, thing: Any, message: str) -> None:
    with pytest.raises(PluginError) as raised:
        Catalog().register_plugin(plugin(kind, thing))
    assert message in str(raised.value)
