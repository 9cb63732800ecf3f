"""Batches and randomness: functions of the seed and the step, not of history."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from odekit.errors import InputError
from odekit.runner.randomness import Randomness, restored
from odekit.runner.sampling import Batches


def test_an_epoch_is_a_permutation_and_the_next_one_another() -> None:
    batches = Batches(10, 3, Randomness(0))
    epochs = [torch.cat([batches.indices(3 * epoch + step) for step in range(3)]) for epoch in range(4)]
    assert batches.per_epoch == 3
    for order in epochs:
        assert len(set(order.tolist())) == 9
        assert set(order.tolist()) <= set(range(10))
    assert len({tuple(order.tolist()) for order in epochs}) == 4
    left_out = [set(range(10)) - set(order.tolist()) for order in epochs]
    assert len({tuple(rest) for rest in left_out}) > 1


def test_a_batch_does_not_depend_on_those_before_it() -> None:
    walked = Batches(50, 7, Randomness(3))
    for step in range(20):
        expected = walked.indices(step)
    assert torch.equal(Batches(50, 7, Randomness(3)).indices(19), expected)
    assert not torch.equal(Batches(50, 7, Randomness(4)).indices(19), expected)


def test_processes_share_each_batch() -> None:
    whole = Batches(20, 6, Randomness(0))
    shares = [Batches(20, 6, Randomness(0), rank, 2) for rank in range(2)]
    for step in range(5):
        assert torch.equal(torch.cat([share.indices(step) for share in shares]), whole.indices(step))


def test_small_data_are_one_batch_and_odd_ones_cannot_be_shared() -> None:
    assert Batches(5, 100, Randomness(0)).batch_size == 5
    with pytest.raises(InputError, match="5 samples cannot be shared equally by 2 processes"):
        Batches(5, 100, Randomness(0), 0, 2)
    with pytest.raises(InputError, match="empty"):
        Batches(0, 100, Randomness(0))


def test_purposes_places_and_seeds_do_not_mix() -> None:
    keys = [("noise", 1, 0), ("noise", 0, 1), ("noise", 10), ("noise", 1), ("order", 1)]
    numbers = {Randomness(seed).number(*key) for seed in (0, 1) for key in keys}
    assert len(numbers) == 10
    assert all(0 <= number < 2**63 for number in numbers)


def test_the_global_generators_are_seeded_and_given_back() -> None:
    def draws() -> tuple[float, float, float]:
        return torch.rand(()).item(), np.random.rand(), random.random()

    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    undisturbed = draws()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    with restored(torch.device("cpu")):
        Randomness(0).seed_globals("step", 3)
        first = draws()
        Randomness(0).seed_globals("step", 3)
        assert draws() == first
        Randomness(0).seed_globals("step", 4)
        assert all(a != b for a, b in zip(draws(), first, strict=True))
    assert draws() == undisturbed
