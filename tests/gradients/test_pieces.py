"""Steps that are gone back through several at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import odekit
from odekit.errors import GradientError
from odekit.gradients import Checkpointed, Direct
from odekit.gradients.checkpointed import StepsTape
from odekit.gradients.pieces import Pieces
from odekit.solving import solver_named

DOUBLE = torch.float64


class Wide(nn.Module):
    """A network of one hidden layer, on the state and the time."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, hidden), nn.Tanh(), nn.Linear(hidden, 3)).double()
        self.most = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.net(torch.cat([y, t.expand(len(y), 1)], 1))
        return out


def gradients(f: nn.Module, solver: str, gradient: object, **options: object) -> list[Tensor]:
    torch.manual_seed(1)
    y0 = torch.randn(5, 3, dtype=DOUBLE, requires_grad=True)
    t = torch.tensor([0.0, 0.13, 0.5, 2.0], dtype=DOUBLE, requires_grad=True)
    found = odekit.solve(f, y0, t, solver=solver, gradient=gradient, **options)  # type: ignore[arg-type]
    return list(torch.autograd.grad(found.ys.sin().sum(), [y0, t, *f.parameters()]))


CASES = {
    "dopri5": {},
    "rk4": {"step_size": 0.02},
    "kvaerno3": {},
    "adams_bashforth_moulton": {},
    "alf": {"step_size": 0.02},
    "dopri5, jumps": {"jump_times": [0.3, 1.1]},
    "bdf, jumps": {"jump_times": [0.3, 1.1]},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("limit", [10_000, 2**22])
def test_gradients_are_those_of_direct_whatever_the_length(
    case: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StepsTape, "activations", limit)
    options = {"rtol": 1e-5, "atol": 1e-7} if "step_size" not in CASES[case] else {}
    f, solver = Wide(8), case.split(",")[0]
    ours = gradients(f, solver, Checkpointed(), **CASES[case], **options)
    theirs = gradients(f, solver, Direct(), **CASES[case], **options)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def lengths(monkeypatch: pytest.MonkeyPatch, hidden: int, gradient: object) -> list[int]:
    """Of the pieces of a solve of a hundred steps, from the last to the first."""
    found = []
    plain = Pieces.of

    def of(self: Pieces, steps: object) -> object:
        for piece in plain(self, steps):  # type: ignore[arg-type]
            found.append(len(piece))
            yield piece

    monkeypatch.setattr(Pieces, "of", of)
    gradients(Wide(hidden), "rk4", gradient, step_size=0.02)
    return found


def test_small_activations_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    found = lengths(monkeypatch, 8, Checkpointed())
    assert sum(found) == 100
    assert found[0] == 1
    assert max(found) == 32


@pytest.mark.slow
def test_large_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four calls with 5 x 60,000 hidden numbers are 9.6 MB."""
    assert lengths(monkeypatch, 60_000, Checkpointed()) == [1] * 100


def test_parameters_are_no_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    """8,000 hidden units have 64,000 parameters, of 512 kB, and activations of 320 kB a call."""
    found = lengths(monkeypatch, 8_000, Checkpointed())
    assert set(found[1:-1]) == {2**22 // (4 * 8 * (5 * 8_000 + 5 * 4 + 1))} == {3}


@pytest.mark.parametrize("gradient", [Checkpointed(budget=7), Checkpointed(budget="sqrt"), "symplectic"])
def test_methods_that_count_states_take_one_step_at_a_time(gradient: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(lengths(monkeypatch, 8, gradient)) == {1}


def test_what_a_rejected_try_left_begins_a_piece() -> None:
    """BDF hands on other differences after a rejection; the step then starts from those, not from what came before."""
    f = Wide(8)

    def kicked(t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = f(t, y) + 20 * torch.exp(-((t - 1) ** 2) * 2000)
        return out

    module = nn.Module()
    module.f = f
    module.forward = kicked  # type: ignore[method-assign, assignment]
    options = {"rtol": 1e-5, "atol": 1e-7}
    ours = gradients(module, "bdf", Checkpointed(), **options)
    theirs = gradients(module, "bdf", Direct(), **options)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_a_tensor_that_only_some_steps_use_is_not_missed() -> None:
    """It cannot be found beforehand; the graph of a piece shows it all the same."""
    hidden = {"deep": {"deeper": {"deepest": {"x": {"y": {"z": torch.ones(3, dtype=DOUBLE, requires_grad=True)}}}}}}

    def f(t: Tensor, y: Tensor) -> Tensor:
        extra = hidden["deep"]["deeper"]["deepest"]["x"]["y"]["z"]
        return -y * extra if 0.4 < float(t) < 0.5 else -y

    y0 = torch.ones(3, dtype=DOUBLE, requires_grad=True)
    found = odekit.solve(f, y0, [0.0, 1.0], solver=solver_named("rk4"), gradient="checkpointed", step_size=0.01)
    with pytest.raises(GradientError, match="did not find"):
        found.y1.sum().backward()
