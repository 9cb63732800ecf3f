"""Real NVP and Glow as models: their suites, their inverses, and whole runs next to a continuous flow."""

from __future__ import annotations

import json

import pytest
import torch
from odekit_realnvp.models import Glow, RealNVP

from odekit.core.protocols import Tools
from odekit.errors import InputError, OptionError
from odekit.registry import catalog
from odekit.runner import Choice, Optimizer, Spec, Train, run
from odekit.testing import ModelSuite

MODELS = [RealNVP, Glow]


SMALL = {"couplings": 4, "dims": (16,)}


class TestRealNVP(ModelSuite):
    model = RealNVP
    options = SMALL


class TestGlow(ModelSuite):
    model = Glow
    options = SMALL


def built(model, shape=(43,), **options):
    torch.manual_seed(0)
    made = model.build(shape, None, Tools(), **{"dims": (16,), **options}).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    return made.eval()


def test_the_catalog_has_them():
    mine = {entry.name for entry in catalog().entries("model") if entry.distribution == "odekit-realnvp"}
    assert mine == {"realnvp", "glow"}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("shape", [(2,), (43,), (1, 4, 4)], ids=str)
def test_samples_are_the_exact_inverse(model, shape):
    """Sent back to the base, samples are the normal numbers that they were made of."""
    made = built(model, shape)
    samples = made.sample(20, torch.Generator().manual_seed(5))
    z = samples.reshape(20, -1)
    for bijection in made.chain:
        z, _ = bijection(z)
    normal = torch.randn(20, z.shape[1], generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    torch.testing.assert_close(z, normal, rtol=0, atol=1e-10)


@pytest.mark.parametrize("model", MODELS)
def test_every_entry_depends_on_every_other(model):
    made, x = built(model, (6,)), torch.randn(6, dtype=torch.float64)

    def through(row):
        z = row[None]
        for bijection in made.chain:
            z, _ = bijection(z)
        return z[0]

    assert (torch.func.jacrev(through)(x) != 0).all()


def test_the_first_batch_of_training_starts_glow_and_no_later_one():
    torch.manual_seed(0)
    model, far = Glow.build((2,), None, Tools()), 100 + 10 * torch.randn(500, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.eval().log_prob(far)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    nll = -model.train().log_prob(far).mean()
    assert nll < 10  # without a start it is above 5000
    started = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.log_prob(far - 50)
    assert all(torch.equal(tensor, started[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("model", MODELS)
def test_what_does_not_fit_is_told(model):
    with pytest.raises(InputError, match="two of them"):
        model.build((1,), None, Tools())
    with pytest.raises(OptionError, match="couplings"):
        model.build((2,), None, Tools(), couplngs=3)
    with pytest.raises(InputError, match="shape"):
        model.build((2,), None, Tools()).log_prob(torch.zeros(4, 3))


@pytest.mark.parametrize("name", ["realnvp", "glow"])
def test_a_run_learns_reports_and_draws(name, tmp_path):
    spec = Spec(
        model=Choice(name, {"couplings": 4, "dims": [32]}),
        data=Choice("moons", {"train": 4096, "valid": 512, "test": 512}),
        train=Train(steps=100, batch_size=256),
        optimizer=Optimizer(lr=1e-2),
        threads=1,
    )
    result = run(spec, tmp_path / "run")
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert result.test["log_likelihood"] > -3.0  # a normal density with the data's moments has -3.3
    assert records[-1]["train_nll"] < records[0]["train_nll"]
    assert (tmp_path / "run" / "figures" / "density.png").is_file()
    report = (tmp_path / "run" / "report.md").read_text()
    assert "odekit-realnvp 0.1.0" in report
    assert "| solver |" not in report


def test_a_run_takes_no_solver(tmp_path):
    with pytest.raises(OptionError, match=r"^solver: .*'glow' solves no ODE"):
        run(Spec(model="glow", data="moons", solver="rk4"), tmp_path / "run")
