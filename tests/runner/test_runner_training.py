"""Training step by step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import runner_stubs
import torch

from odekit.core.protocols import Data, Split, Tools
from odekit.errors import RunError
from odekit.runner import Evaluate, Optimizer, Schedule, Spec, Train
from odekit.runner.distributed import Processes
from odekit.runner.randomness import Randomness
from odekit.runner.training import Trainer


def trainer(model: torch.nn.Module | None = None, **given: Any) -> Trainer:
    spec = Spec(**{"model": "stub-gaussian", "data": "stub-plane", "train": Train(steps=20, batch_size=10), **given})
    data = runner_stubs.Plane.load(None, 0)
    model = model or runner_stubs.Gaussian()
    return Trainer(spec, model, data, torch.device("cpu"), Randomness(spec.seed), Processes())


@pytest.mark.parametrize(
    ("setting", "reference"),
    [
        (Optimizer("adam", 0.1, 0.01), lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.01)),
        (Optimizer("adamw", 0.1, 0.01), lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.01)),
        (Optimizer("sgd", 0.1, 0.01, momentum=0.5), lambda p: torch.optim.SGD(p, 0.1, 0.5, weight_decay=0.01)),
    ],
)
def test_it_is_the_optimiser_that_was_asked_for(setting: Optimizer, reference: Any) -> None:
    ours, model = trainer(optimizer=setting), runner_stubs.Gaussian()
    optimizer = reference(model.parameters())
    for step in range(8):
        ours.advance()
        x = ours.data.train.x[ours.batches.indices(step)]
        optimizer.zero_grad()
        model.loss(x)[0].backward()
        optimizer.step()
    for mine, theirs in zip(ours.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_gradient_is_clipped_and_its_norm_told() -> None:
    free, clipped = (
        trainer(optimizer=Optimizer("sgd", 1.0), train=Train(steps=5, grad_clip=clip)) for clip in (None, 0.1)
    )
    norm = free.advance()["grad_norm"]
    assert clipped.advance()["grad_norm"] == norm > 0.1
    moved = torch.cat([parameter.detach() for parameter in clipped.model.parameters()]).norm()
    assert moved == pytest.approx(0.1, rel=1e-4)


def test_the_schedule_is_followed() -> None:
    run = trainer(optimizer=Optimizer(lr=0.2), schedule=Schedule("steps", (0.5,), 0.1))
    rates = []
    while not run.done:
        rates.append(run.rate)
        run.advance()
    assert rates == pytest.approx([0.2] * 10 + [0.02] * 10)


def test_when_evaluations_are_due() -> None:
    def due(**given: Any) -> list[int]:
        run, steps = trainer(**given), []
        while True:
            if run.due:
                steps.append(run.state.step)
                run.summary()
            if run.done:
                return steps
            run.advance()

    assert due() == list(range(2, 21, 2))
    assert due(train=Train(epochs=3, batch_size=10)) == [4, 8, 12]
    assert due(train=Train(steps=7, batch_size=10), evaluate=Evaluate(every=3)) == [3, 6, 7]


def test_means_are_over_the_steps_since_the_last_ones() -> None:
    run = trainer()
    first = [run.advance()["loss"] for _ in range(3)]
    assert run.summary()["loss"] == pytest.approx(sum(first) / 3)
    second = [run.advance()["loss"] for _ in range(2)]
    assert run.summary()["loss"] == pytest.approx(sum(second) / 2)


def test_calls_of_the_dynamics_are_counted_after_the_backward_pass() -> None:
    model = runner_stubs.Restless.build((2,), 2, Tools())
    spec = Spec(model="stub-restless", data="stub-clusters", train=Train(steps=3, batch_size=10))
    run = Trainer(spec, model, runner_stubs.Clusters.load(None, 0), torch.device("cpu"), Randomness(0), Processes())
    measured = run.advance()
    assert (measured["nfe_forward"], measured["nfe_backward"]) == (7, 5)
    run.advance()
    assert (run.state.nfe, run.state.nfe_backward) == (14, 10)


def test_labels_follow_their_samples() -> None:
    seen = []

    class Looking(runner_stubs.Restless):
        def loss(self, x, y=None, generator=None):
            seen.append((x, y))
            return super().loss(x, y, generator)

    x = torch.arange(12.0).repeat(2, 1).T
    part = Split(x, torch.arange(12) % 2)
    data = Data(part, part, part, shape=(2,), classes=2)
    spec = Spec(model="stub-restless", data="stub-clusters", train=Train(epochs=2, batch_size=4))
    run = Trainer(spec, Looking(2, 2, True, None), data, torch.device("cpu"), Randomness(0), Processes())
    while not run.done:
        run.advance()
    for x, y in seen:
        assert torch.equal(x[:, 0].long() % 2, y)
    assert sorted(torch.cat([x[:, 0] for x, _ in seen[:3]]).tolist()) == list(range(12))


def test_a_loss_that_is_not_finite_leaves_the_parameters_as_they_were() -> None:
    run = trainer(runner_stubs.Gaussian(nan_at=2))
    run.advance(), run.advance()
    before = [parameter.detach().clone() for parameter in run.model.parameters()]
    with pytest.raises(RunError, match=r"the loss became nan at step 2\. Try a smaller --lr"):
        run.advance()
    assert run.state.step == 2
    assert all(torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))


def test_the_best_weights_are_kept() -> None:
    run = trainer(train=Train(steps=5, select="best"))
    means = {}
    for value in (-3.0, -1.0, -2.0):
        run.advance()
        run.consider({"log_likelihood": value})
        means[value] = run.model.mean.detach().clone()
    assert (run.state.best, run.state.best_step) == (-1.0, 2)
    assert torch.equal(run.best["mean"], means[-1.0])
    last = trainer(train=Train(steps=5))
    last.consider({"log_likelihood": 0.0})
    assert last.best == {}


def test_a_checkpoint_of_something_else_is_refused() -> None:
    run = trainer()
    run.advance()
    with pytest.raises(RunError, match="does not fit the model"):
        trainer().restore({**run.tensors(), "model.extra": torch.zeros(1)}, {})


def test_a_model_without_parameters() -> None:
    class Fixed(runner_stubs.Gaussian):
        def __init__(self) -> None:
            super().__init__()
            self.requires_grad_(False)

    with pytest.raises(RunError, match="no parameter to train"):
        trainer(Fixed())


def test_training_finds_the_gaussian() -> None:
    run = trainer(train=Train(steps=300, batch_size=40), optimizer=Optimizer(lr=0.05))
    while not run.done:
        loss = run.advance()["loss"]
    x = run.data.train.x
    assert torch.allclose(run.model.mean.detach(), x.mean(0), atol=0.02)
    assert torch.allclose(run.model.log_scale.detach().exp(), x.std(0, correction=0), atol=0.02)
    best = (x.std(0, correction=0).log() + 0.5 * math.log(2 * math.pi * math.e)).sum().item()
    assert loss == pytest.approx(best, abs=1e-3)
