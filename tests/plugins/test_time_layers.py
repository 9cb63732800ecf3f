from __future__ import annotations

import pytest
import torch
from odekit_models.time_layers import LAYERS, NONLINEARITIES, TimeMLP
from torch import Tensor, nn

T = torch.tensor(0.7, dtype=torch.float64)


def _layer(name: str) -> nn.Module:
    torch.manual_seed(0)
    return LAYERS[name](3, 5).double()


def _gate(vector: nn.Module) -> Tensor:
    return torch.sigmoid(vector.weight * 0.7 + vector.bias)


FORMULAS = {
    "ignore": lambda m, x: x @ m.linear.weight.T + m.linear.bias,
    "concat": lambda m, x: x @ m.linear.weight[:, :3].T + 0.7 * m.linear.weight[:, 3] + m.linear.bias,
    "squash": lambda m, x: (x @ m.linear.weight.T + m.linear.bias) * _gate(m.gate),
    "concatsquash": lambda m, x: (x @ m.linear.weight.T + m.linear.bias) * _gate(m.gate) + 0.7 * m.shift.weight,
    "blend": lambda m, x: 0.3 * m.start(x) + 0.7 * m.end(x),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_layers_follow_their_formulas(name: str) -> None:
    x = torch.randn(4, 3, dtype=torch.float64)
    layer = _layer(name)
    torch.testing.assert_close(layer(T, x), FORMULAS[name](layer, x))


def test_hyper_is_linear_in_x_with_weights_that_depend_on_time() -> None:
    layer = _layer("hyper")
    x = torch.randn(4, 3, dtype=torch.float64)

    def weights(t: Tensor) -> tuple[Tensor, Tensor]:
        bias = layer(t, torch.zeros(1, 3, dtype=torch.float64))
        return layer(t, torch.eye(3, dtype=torch.float64)) - bias, bias

    w, b = weights(T)
    torch.testing.assert_close(layer(T, x), x @ w + b)
    other, _ = weights(torch.zeros_like(T))
    assert not torch.allclose(w, other)


def test_hyper_begins_in_the_range_of_a_linear_layer() -> None:
    torch.manual_seed(0)
    layer = LAYERS["hyper"](64, 64)
    plain = nn.Linear(64, 64)
    with torch.no_grad():
        weight = layer(torch.tensor(0.5), torch.eye(64)) - layer(torch.tensor(0.5), torch.zeros(1, 64))
    assert float(weight.std()) == pytest.approx(float(plain.weight.detach().std()), rel=0.3)


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_with_every_nonlinearity_reaches_every_parameter(layer: str, nonlinearity: str) -> None:
    torch.manual_seed(0)
    field = TimeMLP(2, (6, 4), layer, nonlinearity)
    x = torch.randn(16, 2)
    dx = field(torch.tensor(0.3), x)
    assert dx.shape == (16, 2)
    dx.square().sum().backward()
    for name, parameter in field.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("layer", LAYERS)
def test_only_ignore_ignores_the_time(layer: str) -> None:
    torch.manual_seed(0)
    field = TimeMLP(2, (6,), layer, "tanh")
    x = torch.randn(16, 2)
    assert torch.equal(field(torch.tensor(0.1), x), field(torch.tensor(0.9), x)) == (layer == "ignore")


def test_the_hidden_widths_are_those_given() -> None:
    field = TimeMLP(2, (6, 4), "ignore", "tanh")
    assert [(m.linear.in_features, m.linear.out_features) for m in field.layers] == [(2, 6), (6, 4), (4, 2)]
