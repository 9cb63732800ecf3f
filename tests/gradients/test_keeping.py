"""Which states are kept: counts on the way, the cost of going back, and gradients that do not notice."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from problems import ADAPTIVE, DOUBLE, solver_class
from torch import Tensor

from odekit import solve
from odekit.core.accepted import Passage
from odekit.errors import InputError
from odekit.gradients import Checkpointed
from odekit.gradients.keeping import AtMost, Every, Keeping, SquareRoot, split


def walked(kept: Keeping, count: int) -> tuple[int, int]:
    """How many steps were taken again on the way back, and the largest number of states on the way forward.

    A state is the number of its step, so that it can be seen whether the right one arrives.
    """
    most = 0
    for number in range(count):
        kept.add(Passage(float(number), number + 1.0, False, 0, ()).starting(torch.tensor(number), None))
        most = max(most, len(kept.states))
    again = 0

    def advance(passage: Passage, state: tuple[Tensor, Any], following: Passage) -> tuple[Tensor, Any]:
        nonlocal again
        again += 1
        assert int(state[0]) == passage.t0 == following.t0 - 1
        return state[0] + 1, None

    for _ in range(2):  # a second pass finds what the first one found
        again = 0
        for expected, step in zip(reversed(range(count)), kept.backwards(advance), strict=True):
            assert int(step.y0) == step.t0 == expected
    return again, most


@functools.cache
def least(length: int, room: int) -> int:
    """The fewest steps taken without gradients, by trying every place for the next state."""
    if length <= 1:
        return 0
    if room == 1:
        return length * (length - 1) // 2
    return min(m + least(length - m, room - 1) + least(m, room) for m in range(1, length))


@pytest.mark.parametrize("room", [1, 2, 3, 5, 8])
def test_the_places_of_states_are_the_best_ones(room: int) -> None:
    def cost(length: int, room: int) -> int:
        if length <= 1:
            return 0
        if room == 1:
            return length * (length - 1) // 2
        m = split(length, room)
        return m + cost(length - m, room - 1) + cost(m, room)

    assert [cost(n, room) for n in range(1, 40)] == [least(n, room) for n in range(1, 40)]


@pytest.mark.parametrize("budget", [1, 2, 3, 5, 8, 40])
@pytest.mark.parametrize("count", [1, 2, 7, 30, 200])
def test_no_more_states_than_allowed_and_few_steps_again(count: int, budget: int) -> None:
    """At most t times for binomial(budget + t, t) steps, the way forward included."""
    again, most = walked(AtMost(budget), count)
    assert most <= budget
    times = next(t for t in range(1, 1000) if math.comb(budget + t, t) >= count)
    assert again <= max(0, times - 1) * count + (count if budget < count and times == 1 else 0)


@pytest.mark.parametrize("count", [1, 10, 100, 3000])
def test_states_in_number_like_the_square_root(count: int) -> None:
    again, most = walked(SquareRoot(), count)
    assert most <= 3 * math.sqrt(count) + 1
    assert again <= count


def test_every_state_needs_no_step_again() -> None:
    assert walked(Every(), 50) == (0, 50)


@pytest.mark.parametrize("budget", [0, -1, 2.5, "root", True])
def test_a_wrong_budget_is_named(budget: Any) -> None:
    with pytest.raises(InputError, match="budget="):
        Checkpointed(budget=budget)


def forced(t: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    return torch.cos(3 * t) * torch.tanh(y @ weight) - 0.1 * y**3


@pytest.mark.parametrize("budget", [4, "sqrt"])
@pytest.mark.parametrize("solver", ADAPTIVE)
def test_a_budget_does_not_change_the_gradient(solver: str, budget: int | str) -> None:
    """Outputs inside steps, rejected steps, a discontinuity, and times that are differentiated."""
    found, rtol = [], 1e-2 if solver_class(solver).order < 3 else 1e-4
    for gradient in (Checkpointed(), Checkpointed(budget=budget)):
        generator = torch.Generator().manual_seed(3)
        y0, weight = (torch.randn(2, 2, dtype=DOUBLE, generator=generator).requires_grad_() for _ in range(2))
        t = torch.tensor([0.0, 0.35, 0.8, 2.0], dtype=DOUBLE, requires_grad=True)
        solution = solve(
            forced, y0, t, args=(weight,), solver=solver, gradient=gradient, jump_times=[1.1], rtol=rtol, atol=rtol,
            first_step=0.5,
        )  # fmt: skip
        (solution.ys.square().sum() + solution.y1.sin().sum()).backward()
        found.append((solution.ys.detach(), y0.grad, weight.grad, t.grad))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-11)


def test_memory_of_a_budget_on_the_tape() -> None:
    y0 = torch.ones(3, dtype=DOUBLE, requires_grad=True)
    solution = solve(lambda t, y: -y, y0, [0.0, 1.0], solver="euler", step_size=1e-3, gradient=Checkpointed(budget=7))
    assert len(solution.y1.grad_fn.tape.kept.states) == 7
    solution.y1.sum().backward()
    assert len(solution.y1.grad_fn.tape.kept.states) == 7
    torch.testing.assert_close(y0.grad, torch.full((3,), 0.999**1000, dtype=DOUBLE), rtol=1e-12, atol=0)


def test_rows_with_a_budget() -> None:
    found = []
    for gradient in ("direct", Checkpointed(budget=3)):
        y0 = torch.linspace(0.5, 2, 6, dtype=DOUBLE).reshape(3, 2).requires_grad_()
        weight = torch.eye(2, dtype=DOUBLE).requires_grad_()
        ys = solve(forced, y0, [0.0, 0.4, 1.5], args=(weight,), batch="rows", gradient=gradient).ys
        found.append(torch.autograd.grad(ys.square().sum(), [y0, weight]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-12)
