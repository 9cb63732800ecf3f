"""``odekit profile``: what may be typed, and what it prints."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

import odekit.runner.profile
from odekit.cli.main import main
from odekit.runner import Spec
from odekit.runner.profile import Cost, Profile

FOUND = Profile(
    (
        Cost("auto", "direct", 10.25, 0.5, 40, 0, 1.5e-6),
        Cost("bad", problem="cannot work with this"),
        Cost("checkpointed", "", 0.5, 0.75, 41, 40, None),
    ),
    "direct in float64",
    "checkpointed",
    "the fastest",
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []

    def profile(spec: Spec, **options: Any) -> Profile:
        calls.append((spec, options))
        options["note"]("direct ...")
        for cost in FOUND.costs[1:]:
            options["on_cost"](cost)
        return FOUND

    monkeypatch.setattr(odekit.runner.profile, "profile", profile)
    return calls


def typed(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["profile", *arguments], prog_name="odekit")


def test_a_line_for_every_method_and_a_recommendation(asked: list[Any]) -> None:
    result = typed("ffjord", "--data", "moons", "--trace", "exact", "--batch-size", "7", "--set", "model.dims=[8]")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [
        "gradient       peak MiB     ms  nfe  nfe back    error",
        "auto (direct)      10.2  500.0   40         0  1.5e-06",
        "bad            - cannot work with this",
        "checkpointed        0.5  750.0   41        40        -",
        "",
        "errors: relative to direct in float64",
        "recommended: checkpointed, the fastest",
    ]
    assert result.stderr.splitlines() == [
        "direct ...",
        "  - cannot work with this",
        "  0.5 MiB, 750.0 ms, 41 calls forward, 40 backward, error -",
    ]
    (spec, options), *_ = asked
    assert (spec.model.name, spec.model.options, spec.train.batch_size) == ("ffjord", {"dims": [8]}, 7)
    assert (options["repeats"], options["time_limit"]) == (5, 300.0)


def test_json_and_quiet(asked: list[Any]) -> None:
    result = typed("ffjord", "--data", "moons", "--json", "--quiet", "--repeats", "2", "--time-limit", "9")
    assert result.stderr == ""
    found = json.loads(result.stdout)
    assert found["recommended"] == "checkpointed"
    assert [cost["gradient"] for cost in found["costs"]] == ["auto", "bad", "checkpointed"]
    assert found["costs"][1]["seconds"] is None
    assert (asked[0][1]["repeats"], asked[0][1]["time_limit"]) == (2, 9.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "say what to profile"),
        (("ffjord",), "--data NAME"),
        (("ffjord", "--data", "moons", "--repeats", "0"), "--repeats"),
        (("ffjord", "--data", "moons", "--resume", "x"), "--resume"),
    ],
)
def test_what_is_typed_wrongly(arguments: tuple[str, ...], message: str) -> None:
    result = typed(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
