"""Models, systems and trajectories: their suites, and whole runs."""

from __future__ import annotations

import json

import pytest
import torch
from odekit_hamiltonian.models import HamiltonianNetwork, LagrangianNetwork, PlainNetwork
from odekit_hamiltonian.networks import GeneralEnergy, SeparableEnergy
from odekit_hamiltonian.systems import Pendulum, Spring, TwoBody
from odekit_hamiltonian.trajectories import PendulumTrajectories, SpringTrajectories, TwoBodyTrajectories

from odekit.core.protocols import Tools
from odekit.errors import InputError, OptionError
from odekit.registry import catalog
from odekit.runner import Choice, Optimizer, SolverChoice, Spec, Train, run
from odekit.testing import DatasetSuite, DynamicsSuite, ModelSuite

SMALL = {"dims": (8,)}
FEW = {"train": 20, "valid": 5, "test": 5}


class TestHamiltonian(ModelSuite):
    model = HamiltonianNetwork
    options = SMALL


class TestLagrangian(ModelSuite):
    model = LagrangianNetwork
    options = SMALL


class TestPlain(ModelSuite):
    model = PlainNetwork
    options = SMALL


class TestPendulum(DynamicsSuite):
    dynamics = Pendulum


class TestSpring(DynamicsSuite):
    dynamics = Spring


class TestTwoBody(DynamicsSuite):
    dynamics = TwoBody


class TestPendulumTrajectories(DatasetSuite):
    dataset = PendulumTrajectories
    options = FEW


class TestSpringTrajectories(DatasetSuite):
    dataset = SpringTrajectories
    options = FEW


class TestTwoBodyTrajectories(DatasetSuite):
    dataset = TwoBodyTrajectories
    options = FEW


def test_the_catalog_has_them():
    mine = {(e.kind, e.name) for e in catalog().entries() if e.distribution == "odekit-hamiltonian"}
    systems = ("pendulum", "spring", "two-body")
    models = {("model", name) for name in ("hamiltonian", "lagrangian", "plain-field")}
    assert mine == models | {(kind, name) for kind in ("dynamics", "dataset") for name in systems}


def test_trajectories_are_those_of_the_system():
    """The spring's are known; what all of them keep is the energy."""
    x = SpringTrajectories.load(None, 3, **FEW, points=20).train.x
    t, q, p = x.unbind(-1)
    expected = torch.stack([q[:, :1] * t.cos() + p[:, :1] * t.sin(), p[:, :1] * t.cos() - q[:, :1] * t.sin()], -1)
    torch.testing.assert_close(x[..., 1:], expected, rtol=0, atol=1e-5)
    for dataset in (PendulumTrajectories, SpringTrajectories, TwoBodyTrajectories):
        states = dataset.load(None, 3, **FEW, points=40).train.x[..., 1:].double()
        energy = dataset.system().energy(states)
        torch.testing.assert_close(energy, energy[:, :1].expand_as(energy), rtol=0, atol=1e-5)


def test_noise_is_added_to_what_is_trained_on_and_not_to_the_test():
    clean = PendulumTrajectories.load(None, 0, **FEW)
    noisy = PendulumTrajectories.load(None, 0, **FEW, noise=0.1)
    apart = noisy.train.x - clean.train.x
    assert apart[..., 1:].std().item() == pytest.approx(0.1, rel=0.15)
    assert apart[..., 0].abs().max() == 0
    assert torch.equal(noisy.test.x, clean.test.x)


@pytest.mark.parametrize(
    ("solver", "given", "expected"),
    [
        ("leapfrog", {}, SeparableEnergy),
        ("dopri5", {}, GeneralEnergy),
        ("dopri5", {"energy": "separable"}, SeparableEnergy),
    ],
)
def test_the_energy_is_what_the_solver_is_for(solver, given, expected):
    model = HamiltonianNetwork.build((5, 3), None, Tools(solver=solver), **given)
    assert type(model.field.energy) is expected


@pytest.mark.parametrize("shape", [(2,), (5, 4), (1, 3)], ids=str)
def test_samples_that_are_no_trajectories_are_refused(shape):
    with pytest.raises(InputError, match=r"trajectories \[points, 1 \+ 2n\]"):
        HamiltonianNetwork.build(shape, None, Tools())


def test_what_does_not_fit_is_told():
    with pytest.raises(OptionError, match="energy"):
        HamiltonianNetwork.build((5, 3), None, Tools(), energy="kinetic")
    x, _ = HamiltonianNetwork.example()
    x[0, :, 0] += 1
    with pytest.raises(InputError, match="different times"):
        HamiltonianNetwork.build(tuple(x.shape[1:]), None, Tools()).loss(x)


@pytest.mark.parametrize(
    ("model", "solver"),
    [
        ("hamiltonian", SolverChoice("leapfrog", step_size=0.125)),
        ("lagrangian", SolverChoice("rk4", step_size=0.125)),
        ("plain-field", SolverChoice("rk4", step_size=0.125)),
    ],
)
def test_a_run_learns_and_reports(model, solver, tmp_path):
    spec = Spec(
        model=Choice(model, {"dims": [16]}),
        data=Choice("pendulum", {"train": 200, "valid": 20, "test": 20, "points": 5}),
        solver=solver,
        gradient="checkpointed",
        train=Train(steps=30, batch_size=50),
        optimizer=Optimizer(lr=1e-2),
        threads=1,
    )
    result = run(spec, tmp_path / "run")
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["valid_loss"] < 0.5 * records[0]["valid_loss"]
    assert result.test["nfe"] > 0
    assert "odekit-hamiltonian 0.1.0" in (tmp_path / "run" / "report.md").read_text()
