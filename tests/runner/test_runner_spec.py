"""Specs: what they accept, how they are written, and what a wrong one says."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest

from odekit.core.protocols import Tools
from odekit.errors import InputError, OptionError
from odekit.runner import Choice, Optimizer, Schedule, SolverChoice, Spec, Train, toml

BASE: dict[str, Any] = {"model": "m", "data": "d"}


def test_a_spec_survives_toml() -> None:
    spec = Spec(
        model=Choice("m", {"width": 3, "dims": [4, 5], "kind": "x"}),
        data="d",
        solver=SolverChoice("rk4", {"own": 1.5}, step_size=0.1, rtol=1e-3),
        gradient=Choice("adjoint", {"rtol": 1e-4}),
        train=Train(steps=7, grad_clip=1.0),
        optimizer=Optimizer("sgd", lr=0.1, momentum=0.9),
        schedule=Schedule("steps", (0.25, 0.5), 0.2),
        seed=3,
        threads=2,
    )
    assert toml.parse(tomllib.loads(toml.dumps(spec))) == spec


def test_defaults_are_those_of_the_tools() -> None:
    spec, tools = Spec(**BASE), Tools()
    assert (spec.solver.name, spec.gradient.name, spec.trace.name) == (tools.solver, tools.gradient, tools.trace)


def test_a_bare_string_is_a_name_and_a_table_without_name_keeps_the_default() -> None:
    spec = toml.parse({**BASE, "trace": "exact", "solver": {"rtol": 1e-3}, "schedule": "cosine"})
    assert spec.trace == Choice("exact")
    assert spec.solver == SolverChoice("dopri5", rtol=1e-3)
    assert spec.schedule.name == "cosine"


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"tran": {}}, r"^tran is not known\. Did you mean 'train'"),
        ({"train": {"epoch": 3}}, r"^train\.epoch is not known\. Did you mean 'epochs'"),
        ({"optimizer": {"name": "adam", "learning_rate": 1}}, r"^optimizer\.learning_rate is not known"),
        ({"optimizer": "adm"}, r"^optimizer\.name: 'adm' is not known\. Did you mean 'adam'"),
        ({"schedule": "cosin"}, r"^schedule\.name: 'cosin' is not known\. Did you mean 'cosine'"),
        ({"optimizer": {"momentum": 0.9}}, r"^optimizer\.momentum: adam has none"),
        ({"schedule": "steps"}, r"^schedule\.drops: 'steps' needs"),
        ({"schedule": {"drops": [0.5]}}, r"^schedule\.drops and factor belong to the schedule 'steps'"),
        ({"train": {"epochs": 3, "steps": 4}}, r"^train\.epochs and steps cannot both be given"),
    ],
)
def test_what_is_not_an_option_is_named_with_its_path(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        toml.parse({**BASE, **tables})


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        *(
            ("solver", key, value)
            for key in ("rtol", "atol", "step_size")
            for value in (0.0, -1e-3, math.nan, math.inf)
        ),
        ("solver", "rtol", "1e-3"),
        ("solver", "max_steps", 0),
        ("train", "epochs", 0),
        ("train", "steps", -5),
        ("train", "epochs", 2.5),
        ("train", "epochs", True),
        ("train", "batch_size", 0),
        ("train", "grad_clip", 0),
        ("train", "select", "first"),
        ("optimizer", "lr", 0),
        ("optimizer", "lr", math.nan),
        ("optimizer", "weight_decay", -1e-4),
        ("evaluate", "every", 0),
        ("evaluate", "limit", 0),
        ("schedule", "factor", 2),
    ],
)
def test_values_that_make_no_sense_are_refused_with_their_path(table: str, key: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"^{table}\.{key}: .*{value!r}"):
        toml.parse({**BASE, table: {key: value}})


@pytest.mark.parametrize(
    ("key", "value"),
    [("seed", -1), ("seed", 1.5), ("threads", 0), ("device", "gpu"), ("device", 0), ("dtype", "float16"), ("train", 3)],
)
def test_wrong_values_at_the_top_are_refused(key: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"^{key}: .*{value!r}"):
        toml.parse({**BASE, key: value})


def test_python_users_meet_the_same_checks() -> None:
    with pytest.raises(InputError, match="epochs: expected a whole number, at least 1, got -1"):
        Train(epochs=-1)
    with pytest.raises(InputError, match="rtol"):
        SolverChoice("dopri5", rtol=math.nan)


@pytest.mark.parametrize(("missing", "tables"), [("data", {"model": "m"}), ("model", {"data": "d"})])
def test_what_is_missing_is_named(missing: str, tables: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"^{missing} is missing"):
        toml.parse(tables)
    with pytest.raises(InputError, match=r"^model\.name is missing"):
        toml.parse({"model": {"nam": "m"}, "data": "d"})


def test_all_problems_come_at_once() -> None:
    with pytest.raises(InputError, match=r"train\.epochs.*; optimizer\.lr"):
        toml.parse({**BASE, "train": {"epochs": -3}, "optimizer": {"lr": -1}})


def test_a_file_that_is_not_there_or_not_toml(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        toml.read(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("seed = \n")
    with pytest.raises(InputError, match=r"bad\.toml is not TOML: .*line 1"):
        toml.read(tmp_path / "bad.toml")


def test_changes_reach_nested_keys_and_leave_the_rest() -> None:
    tables = {"model": "m", "data": {"name": "d", "limit": 5}}
    spec = toml.parse(toml.changed(tables, {"model.width": 8, "gradient.rtol": 1e-4, "seed": 9}))
    assert spec == Spec(
        model=Choice("m", {"width": 8}),
        data=Choice("d", {"limit": 5}),
        gradient=Choice("adjoint", {"rtol": 1e-4}),
        seed=9,
    )
    assert tables == {"model": "m", "data": {"name": "d", "limit": 5}}


def test_another_name_drops_the_settings_of_the_old_one_only() -> None:
    tables = {
        **BASE,
        "solver": {"name": "a", "own": 1, "rtol": 1e-3},
        "optimizer": {"name": "sgd", "momentum": 0.5, "lr": 2.0},
    }
    spec = toml.parse(toml.changed(tables, {"solver.new": 2, "solver.name": "b", "optimizer.name": "adam"}))
    assert spec.solver == SolverChoice("b", {"new": 2}, rtol=1e-3)
    assert spec.optimizer == Optimizer("adam", lr=2.0)
    assert toml.parse(toml.changed(tables, {"solver.name": "a"})).solver.options == {"own": 1}


def test_a_length_in_steps_replaces_one_in_epochs() -> None:
    tables = {**BASE, "train": {"epochs": 3}}
    assert toml.parse(toml.changed(tables, {"train.steps": 5})).train == Train(steps=5)
    with pytest.raises(OptionError, match="cannot both"):
        toml.parse(toml.changed({**BASE}, {"train.steps": 5, "train.epochs": 1}))


def test_a_change_inside_of_something_that_is_no_table() -> None:
    with pytest.raises(OptionError, match=r"seed\.x: seed is not a table"):
        toml.changed({"seed": 1}, {"seed.x": 2})


@pytest.mark.parametrize(
    ("text", "value"),
    [("64", 64), ("1e-4", 1e-4), ("true", True), ("[1, 2]", [1, 2]), ("gaussian", "gaussian"), ('"3"', "3"),
     ("64,64", "64,64"), ("1\nseed = 2", "1\nseed = 2"), ("", "")],
)  # fmt: skip
def test_literals(text: str, value: Any) -> None:
    assert toml.literal(text) == value


def test_rates_of_the_schedules() -> None:
    assert Schedule().rate(0.7) == 1.0
    cosine = Schedule("cosine")
    assert [cosine.rate(done) for done in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.5, 0.0])
    steps = Schedule("steps", (0.25, 0.5), 0.1)
    assert [steps.rate(done) for done in (0.0, 0.24, 0.25, 0.6)] == pytest.approx([1.0, 1.0, 0.1, 0.01])
