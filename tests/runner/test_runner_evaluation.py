"""Evaluation against numbers that are known."""

from __future__ import annotations

import math

import pytest
import runner_stubs
import torch

from odekit.core.protocols import Split, Tools
from odekit.runner.distributed import Processes
from odekit.runner.evaluation import Examiner, measure_for
from odekit.runner.randomness import Randomness


def examiner(batch_size: int = 7, limit: int | None = None, processes: Processes | None = None) -> Examiner:
    cpu = torch.device("cpu")
    return Examiner(batch_size, limit, cpu, torch.float64, Randomness(0), processes or Processes())


def test_log_likelihood_and_its_standard_error() -> None:
    x = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 3
    found = examiner()(runner_stubs.Gaussian().double(), Split(x), "test")
    log_prob = -x.square().sum(1) / 2 - math.log(2 * math.pi)
    assert found["log_likelihood"] == pytest.approx(log_prob.mean().item(), rel=1e-12)
    assert found["standard_error"] == pytest.approx((log_prob.std() / math.sqrt(50)).item(), rel=1e-9)
    assert found["samples"] == 50


def test_error_and_cross_entropy() -> None:
    data = runner_stubs.Clusters.load(None, 0)
    model = runner_stubs.Restless.build((2,), 2, Tools(), noisy=False).double()
    found = examiner()(model, data.test, "test")
    logits = model.layer(data.test.x.double())
    assert found["error"] == (logits.argmax(1) != data.test.y).double().mean().item()
    assert found["cross_entropy"] == pytest.approx(torch.nn.functional.cross_entropy(logits, data.test.y).item())
    assert found["nfe"] == 7


def test_the_model_is_in_evaluation_mode_without_gradients() -> None:
    seen = []

    class Looking(runner_stubs.Gaussian):
        def log_prob(self, x: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
            seen.append((self.training, torch.is_grad_enabled(), len(x)))
            return super().log_prob(x, generator)

    examiner(batch_size=4, limit=10)(Looking().train().double(), Split(torch.zeros(30, 2)), "valid")
    assert seen == [(False, False, 4), (False, False, 4), (False, False, 2)]


def test_noise_is_the_same_at_every_evaluation_and_for_any_number_of_processes() -> None:
    class Noisy(runner_stubs.Gaussian):
        def log_prob(self, x: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
            return super().log_prob(x, generator) + torch.randn(len(x), generator=generator) + torch.rand(())

    data = runner_stubs.Plane.load(None, 0)
    whole = examiner()(Noisy(), data.test, "test")
    assert examiner()(Noisy(), data.test, "test") == whole

    class Apart(Processes):
        """One of two processes, whose sums are added here."""

        def total(self, values: torch.Tensor) -> torch.Tensor:
            totals.append(values)
            return values

    totals: list[torch.Tensor] = []
    for rank in range(2):
        examiner(processes=Apart(rank, 2))(Noisy(), data.test, "test")
    assert totals[0][1] + totals[1][1] == pytest.approx(40 * whole["log_likelihood"], rel=1e-12)


def test_a_task_of_its_own_is_measured_by_its_loss() -> None:
    class Regression(runner_stubs.Gaussian):
        task = "regression"

        def loss(self, x, y=None, generator=None):
            return x.square().mean() + 0 * self.mean.sum(), {}

    found = examiner()(Regression(), Split(torch.full((10, 2), 3.0)), "test")
    assert found["loss"] == pytest.approx(9.0)
    assert (measure_for("regression").headline, measure_for("regression").sign) == ("loss", -1)
