"""An ODE as a layer of a network."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import pytest
import torch
from problems import DOUBLE, GRADIENTS
from torch import Tensor, nn

from odekit import NeuralODE, Stats
from odekit.errors import NameNotFound, OptionError, SolveError


class Field(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.linear(y)) * self.scale


def decay(t: Tensor, y: Any) -> Any:
    return -y


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_in_a_network(gradient: str) -> None:
    net = nn.Sequential(nn.Linear(2, 3), NeuralODE(Field(), gradient=gradient), nn.Linear(3, 1))
    optimiser = torch.optim.Adam(net.parameters(), 0.05)
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(15):
        optimiser.zero_grad()
        loss = (net(x)[:, 0] - x.prod(-1)).square().mean()
        loss.backward()
        assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in net.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_the_answer_is_the_state_at_the_last_time() -> None:
    y1 = NeuralODE(decay)(torch.ones(2, 3))
    torch.testing.assert_close(y1, torch.full((2, 3), math.exp(-1)), rtol=1e-4, atol=0)
    y1 = NeuralODE(decay, t=[0.0, 0.5, 2.0], solver="rk4", step_size=0.1)(torch.ones(2, 3))
    torch.testing.assert_close(y1, torch.full((2, 3), math.exp(-2)), rtol=1e-4, atol=0)
    back = NeuralODE(decay, t=(1.0, 0.0))(torch.ones(2))
    torch.testing.assert_close(back, torch.full((2,), math.e), rtol=1e-4, atol=0)


def test_states_may_be_nested_and_arguments_are_passed_on() -> None:
    def f(t: Tensor, y: tuple[Tensor, Tensor], rate: Tensor) -> tuple[Tensor, Tensor]:
        return rate * y[0], -rate * y[1]

    rate = torch.tensor(0.5, requires_grad=True)
    grow, shrink = NeuralODE(f)((torch.ones(2), torch.ones(2)), rate)
    torch.testing.assert_close(grow * shrink, torch.ones(2), rtol=1e-4, atol=0)
    (grad,) = torch.autograd.grad(grow.sum(), rate)
    torch.testing.assert_close(grad, torch.tensor(2 * math.exp(0.5)), rtol=1e-4, atol=0)


def test_the_whole_solution_at_other_times() -> None:
    layer = NeuralODE(decay)
    solution = layer.solve(torch.ones(2), t=[0.0, 0.1, 0.2])
    assert solution.ys.shape == (3, 2)
    assert layer.solve(torch.ones(2)).ys.shape == (2, 2)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_learnable_end_time(gradient: str) -> None:
    """y' = -y from 1 is to reach 1/4: the end time learns to be log 4."""
    t = nn.Parameter(torch.tensor([0.0, 1.0], dtype=DOUBLE))
    layer = NeuralODE(decay, t=t, gradient=gradient)
    assert dict(layer.named_parameters())["t"] is t
    assert "t" in layer.state_dict()
    optimiser = torch.optim.SGD([t], 2.0)
    for _ in range(30):
        optimiser.zero_grad()
        (layer(torch.ones(1, dtype=DOUBLE)) - 0.25).square().sum().backward()
        optimiser.step()
    assert (t[1] - t[0]).item() == pytest.approx(math.log(4), rel=1e-3)


def test_times_that_are_not_learnable_are_no_parameters() -> None:
    layer = NeuralODE(Field(), t=torch.tensor([0.0, 2.0]))
    assert "t" not in dict(layer.named_parameters())
    assert all(name.startswith("f.") for name in layer.state_dict())


def test_state_dict_round_trip() -> None:
    t = nn.Parameter(torch.tensor([0.0, 1.5]))
    first, second = NeuralODE(Field(), t=t), NeuralODE(Field(), t=nn.Parameter(torch.tensor([0.0, 1.0])))
    with torch.no_grad():
        for parameter in first.f.parameters():
            parameter.mul_(1.5)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(first(x), second(x))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(first(x), second(x))


def test_a_deep_copy_is_a_layer_of_its_own() -> None:
    layer = NeuralODE(Field(), gradient="adjoint")
    x = torch.ones(4, 3)
    before = layer(x)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.f.scale.mul_(2)
    assert torch.equal(layer(x), before)
    assert not torch.equal(other(x), before)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_stats_are_those_of_the_latest_pass(gradient: str) -> None:
    layer = NeuralODE(Field(), solver="rk4", step_size=0.1, gradient=gradient)
    assert layer.stats is None
    x = torch.ones(4, 3)
    y1 = layer(x)
    assert isinstance(layer.stats, Stats)
    assert (layer.stats.steps, layer.stats.nfe_backward) == (10, 0)
    first = layer.stats
    y1.sum().backward()
    assert (layer.stats.nfe_backward > 0) is (gradient != "direct")
    layer(x)
    assert layer.stats is not first
    assert layer.stats.nfe_backward == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_to_another_dtype(dtype: torch.dtype) -> None:
    layer = NeuralODE(Field(), t=(0.0, 0.1)).to(dtype)
    y1 = layer(torch.ones(4, 3, dtype=dtype))
    assert y1.dtype == dtype
    y1.sum().backward()
    assert layer.f.scale.grad.dtype == dtype


def test_unknown_options_are_refused_when_the_layer_is_made() -> None:
    with pytest.raises(OptionError, match=r"NeuralODE has no option 'rtoll'\. Did you mean 'rtol'\?"):
        NeuralODE(decay, rtoll=1e-3)
    with pytest.raises(OptionError, match="NeuralODE has no option 'args'"):
        NeuralODE(decay, args=(1.0,))


def test_failures_come_through() -> None:
    with pytest.raises(NameNotFound, match="Did you mean 'dopri5'"):
        NeuralODE(decay, solver="dopri55")(torch.ones(1))
    with pytest.raises(SolveError):
        NeuralODE(lambda t, y: y * torch.nan)(torch.ones(1))


def test_it_says_how_it_solves() -> None:
    text = repr(NeuralODE(Field(), solver="rk4", gradient="adjoint", step_size=0.1))
    for words in ("solver='rk4'", "gradient='adjoint'", "step_size=0.1", "Linear(in_features=3"):
        assert words in text
