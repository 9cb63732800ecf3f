"""From names and settings to the registered things."""

from __future__ import annotations

from typing import Any

import pytest
import runner_stubs

from odekit.errors import InputError, NameNotFound, OptionError
from odekit.runner import Choice, SolverChoice, Spec, choices


def spec(**given: Any) -> Spec:
    return Spec(**{"model": "stub-gaussian", "data": "stub-plane", **given})


def test_everything_is_found_with_its_settings() -> None:
    found = choices.find(
        spec(
            solver=SolverChoice("rk4", step_size=0.5, max_steps=9),
            gradient=Choice("adjoint", {"rtol": 1, "norm": "seminorm"}),
            trace=Choice("stub-probes", {"probes": 3, "noise": "gaussian"}),
        )
    )
    assert found.model is runner_stubs.Gaussian
    assert found.data is runner_stubs.Plane
    assert found.tools.solver.name == "rk4"
    assert (found.tools.step_size, found.tools.max_steps, found.tools.rtol) == (0.5, 9, None)
    assert (found.tools.gradient.rtol, found.tools.gradient.norm) == (1.0, "seminorm")
    assert isinstance(found.tools.gradient.rtol, float)
    assert (found.tools.trace.probes, found.tools.trace.noise, found.tools.trace.scale) == (3, "gaussian", 1.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "stub-gausian"}, "Did you mean 'stub-gaussian'"),
        ({"data": "stub-plain"}, "Did you mean 'stub-plane'"),
        ({"solver": "dopri55"}, "Did you mean 'dopri5'"),
        ({"gradient": "adjiont"}, "Did you mean 'adjoint'"),
        ({"trace": "exacto"}, "Did you mean 'exact'"),
    ],
)
def test_a_name_that_is_not_registered(given: dict[str, Any], message: str) -> None:
    with pytest.raises(NameNotFound, match=message):
        choices.find(spec(**given))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"trace": Choice("stub-probes", {"probs": 3})}, r"^trace\.probs: .*Did you mean 'probes'"),
        ({"gradient": Choice("adjoint", {"rtoll": 3})}, r"^gradient\.rtoll: .*Did you mean 'rtol'"),
        ({"solver": SolverChoice("dopri5", {"order": 3})}, r"^solver\.order: dopri5 has no"),
        ({"solver": "euler"}, r"^solver: .*euler.*step_size"),
    ],
)
def test_a_setting_that_does_not_exist(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        choices.find(spec(**given))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"trace": Choice("stub-probes", {"probes": "three"})},
            r"^trace\.probes: expected a whole number, got 'three'",
        ),
        ({"trace": Choice("stub-probes", {"noise": 3})}, r"^trace\.noise: expected a string, got 3"),
        ({"trace": Choice("stub-probes", {"probes": 0})}, r"^trace: stub-probes .*probes=0.*there must be a probe"),
        ({"gradient": Choice("adjoint", {"rtol": "small"})}, r"^gradient\.rtol: expected a number, got 'small'"),
    ],
)
def test_a_setting_with_a_wrong_value(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        choices.find(spec(**given))


@pytest.mark.parametrize(
    "given",
    [{"solver": "rk4"}, {"solver": SolverChoice("dopri5", rtol=1e-3)}, {"gradient": "direct"}, {"trace": "exact"}],
)
def test_a_model_that_solves_nothing_takes_no_tools(given: dict[str, Any]) -> None:
    (field,) = given
    with pytest.raises(OptionError, match=rf"^{field}: .*'resnet' solves no ODE"):
        choices.find(spec(model="resnet", data="digits", **given))
    assert choices.find(spec(model="resnet", data="digits")).model.name == "resnet"


def test_a_dataset_for_another_task() -> None:
    with pytest.raises(OptionError, match=r"'stub-clusters' is for classification.*Datasets for density: .*stub-plane"):
        choices.find(spec(data="stub-clusters"))
