from __future__ import annotations

import attrs
import pytest
import torch
from odekit_data.digits import Digits
from odekit_models.blocks import ConvField, ResidualBlock, TimeConv2d
from odekit_models.odenet import ODENet, OneBlock, ResNet, StemOnly
from torch import nn

import odekit
from odekit.core.protocols import Classifier, Tools
from odekit.errors import InputError, NameNotFound, OptionError
from odekit.registry import catalog

MNIST, DIGITS = (1, 28, 28), (1, 8, 8)
PARAMETERS = {ODENet: 208_266, ResNet: 576_778, OneBlock: 206_858, StemOnly: 132_874}
every = pytest.mark.parametrize("model", PARAMETERS, ids=lambda model: model.name)


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@every
def test_parameters_on_mnist(model: type[Classifier]) -> None:
    assert _count(model.build(MNIST, 10, Tools())) == PARAMETERS[model]


@every
def test_registered_by_name(model: type[Classifier]) -> None:
    assert catalog().get("model", model.name) is model
    assert model.task == "classification"


def test_all_share_one_stem_and_one_head() -> None:
    first, *others = (model.build(MNIST, 10, Tools()) for model in PARAMETERS)
    for other in others:
        for part in ("stem", "head"):
            assert str(getattr(first, part)) == str(getattr(other, part))


@every
@pytest.mark.parametrize("shape", [MNIST, DIGITS, (3, 32, 32), (2, 7, 20)])
def test_any_image_gives_finite_logits_and_every_parameter_a_gradient(
    model: type[Classifier], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    net = model.build(shape, 7, Tools(gradient="direct"), width=8)
    x, y = torch.randn(4, *shape), torch.randint(7, (4,))
    assert net(x).shape == (4, 7)
    loss, details = net.loss(x, y)
    loss.backward()
    assert set(details) == {"cross_entropy", "error"}
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_small_images_get_the_small_stem_unless_told_otherwise() -> None:
    small = StemOnly.build(DIGITS, 10, Tools())
    assert small.stem(torch.zeros(1, *DIGITS)).shape == (1, 64, 4, 4)
    told = StemOnly.build(DIGITS, 10, Tools(), stem="conv")
    assert told.stem(torch.zeros(1, *DIGITS)).shape == (1, 64, 1, 1)
    large = StemOnly.build(MNIST, 10, Tools())
    assert large.stem(torch.zeros(1, *MNIST)).shape == (1, 64, 6, 6)
    assert _count(StemOnly.build(MNIST, 10, Tools(), stem="small")) == _count(small)


def test_blocks_and_width_of_a_resnet() -> None:
    one = ResNet.build(MNIST, 10, Tools(), blocks=1)
    assert _count(one) == PARAMETERS[OneBlock]
    assert _count(ResNet.build(MNIST, 10, Tools(), blocks=4)) == _count(one) + 3 * (206_858 - 132_874)
    assert ResNet.build(MNIST, 10, Tools(), width=32).head[-1].in_features == 32


def test_a_residual_block_adds_to_its_input() -> None:
    torch.manual_seed(0)
    block, x = ResidualBlock(4), torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(block(x), x + block.branch(x))
    nn.init.zeros_(block.branch[-1].weight)
    assert torch.equal(block(x), x)


def test_time_enters_as_a_channel() -> None:
    torch.manual_seed(0)
    conv, x, t = TimeConv2d(4), torch.randn(2, 4, 5, 5), torch.tensor(0.7)
    together = torch.cat([torch.full((2, 1, 5, 5), 0.7), x], dim=1)
    torch.testing.assert_close(conv(t, x), conv.conv(together))
    field = ConvField(8)
    x = torch.randn(2, 8, 4, 4)
    assert not torch.allclose(field(torch.tensor(0.0), x), field(torch.tensor(1.0), x))


def test_the_odenet_solves_its_field_over_the_unit_interval() -> None:
    torch.manual_seed(0)
    net = ODENet.build(DIGITS, 10, Tools(solver="rk4", gradient="direct", step_size=0.25), width=8)
    x = torch.randn(3, *DIGITS)
    h = net.stem(x)
    expected = odekit.solve(net.body.f, h, torch.tensor([0.0, 1.0]), solver="rk4", step_size=0.25).y1
    torch.testing.assert_close(net(x), net.head(expected))
    assert [stats.nfe for stats in net.solve_stats()] == [16]


def test_the_odenet_uses_the_tools() -> None:
    def options(tools: Tools) -> dict[str, object]:
        return ODENet.build(DIGITS, 10, tools, width=8).body.options

    assert options(Tools()) == {"solver": "dopri5", "gradient": "adjoint", "rtol": 1e-3, "atol": 1e-3}
    chosen = Tools(solver="bosh3", gradient="checkpointed", rtol=1e-5, max_steps=7)
    assert options(chosen) == {
        "solver": "bosh3", "gradient": "checkpointed", "rtol": 1e-5, "atol": 1e-3, "max_steps": 7,
    }  # fmt: skip
    net = ODENet.build(DIGITS, 10, Tools(solver="dopri55"), width=8)
    with pytest.raises(NameNotFound, match="dopri5"):
        net(torch.zeros(1, *DIGITS))


def test_gradient_methods_agree_on_the_odenet() -> None:
    """With a smooth field: with ReLU every method's gradient converges as slowly as kinks allow."""
    x, y = torch.randn(4, *DIGITS, generator=torch.Generator().manual_seed(0)).double(), torch.tensor([0, 1, 2, 3])
    grads = {}
    for gradient in ("direct", "checkpointed", "adjoint"):
        torch.manual_seed(0)
        net = ODENet.build(DIGITS, 10, Tools(gradient=gradient, rtol=1e-7, atol=1e-7), width=4).double()
        net.body.f.relu = nn.Softplus()
        net.loss(x, y)[0].backward()
        grads[gradient] = torch.cat([parameter.grad.flatten() for parameter in net.parameters()])
        assert (net.solve_stats()[0].nfe_backward > 0) == (gradient != "direct")
    torch.testing.assert_close(grads["checkpointed"], grads["direct"], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(grads["adjoint"], grads["direct"], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("model", "options"), [(ODENet, {}), (ResNet, {"blocks": 2})])
def test_digits_are_learnt(model: type[Classifier], options: dict[str, int]) -> None:
    data = Digits.load(None, 0)
    torch.manual_seed(0)
    net = model.build(data.shape, data.classes, Tools(gradient="direct"), width=16, **options)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(0)
    for _ in range(80):
        rows = torch.randint(len(data.train), (64,), generator=generator)
        loss, _ = net.loss(data.train.x[rows], data.train.y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        _, details = net.eval().loss(data.test.x, data.test.y)
    assert details["error"] < 0.15  # guessing is wrong nine times in ten


@every
def test_mistakes_are_named(model: type[Classifier]) -> None:
    with pytest.raises(OptionError, match=rf"{model.name} has no option 'widht'\. Did you mean 'width'"):
        model.build(MNIST, 10, Tools(), widht=3)
    with pytest.raises(OptionError, match="width=48; expected up to 32, or a multiple of 32"):
        model.build(MNIST, 10, Tools(), width=48)
    with pytest.raises(OptionError, match="stem='big'; expected one of conv, small"):
        model.build(MNIST, 10, Tools(), stem="big")
    with pytest.raises(InputError, match=r"the samples are of shape \(2,\)"):
        model.build((2,), 10, Tools())
    with pytest.raises(InputError, match="the samples are without classes"):
        model.build(MNIST, None, Tools())
    with pytest.raises(InputError, match=r"images of 5 × 9 are too small for stem='conv', which needs at least 6"):
        model.build((1, 5, 9), 10, Tools(), stem="conv")


def test_only_the_resnet_has_blocks() -> None:
    with pytest.raises(OptionError, match="odenet has no option 'blocks'"):
        ODENet.build(MNIST, 10, Tools(), blocks=3)


def test_tools_are_left_as_they_were() -> None:
    tools = Tools()
    ODENet.build(DIGITS, 10, tools)
    assert tools == attrs.evolve(tools) == Tools()
