from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from odekit_data.toy import EightGaussians
from odekit_models import cnf
from odekit_models.cnf import CNF
from odekit_models.ffjord import FFJORD, standard_normal
from odekit_models.time_layers import LAYERS
from odekit_traces.estimators import Exact, Hutchinson
from torch import Tensor, nn

import odekit
from odekit.core.protocols import Tools
from odekit.core.solution import Stats
from odekit.errors import InputError, NameNotFound, OptionError
from odekit.registry import catalog

TIGHT = {"rtol": 1e-10, "atol": 1e-10}
A = torch.tensor([[0.6, -1.1, 0.3], [0.8, -0.4, 0.2], [-0.5, 0.7, 0.9]], dtype=torch.float64)


class Linear(nn.Module):
    """``f(t, z) = A z``."""

    def __init__(self, a: Tensor) -> None:
        super().__init__()
        self.a = nn.Parameter(a.clone())

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return z @ self.a.T


def _linear_flow(trace: Any = "exact", end_time: float = 0.7, **weights: float) -> FFJORD:
    tools = Tools(trace=trace, gradient="direct", **TIGHT)
    return FFJORD((3,), [CNF(Linear(A), tools, tools, end_time).double()], weights).double()


def _wild(dim: int = 2, seed: int = 0, gain: float = 2.5, **options: Any) -> FFJORD:
    """An untrained flow in float64 whose weights are large enough to bend space."""
    torch.manual_seed(seed)
    tools = Tools(gradient="direct", **TIGHT)
    options = {"dims": (16, 16), "eval_rtol": 1e-10, "eval_atol": 1e-10, **options}
    model = FFJORD.build((dim,), None, tools, **options).double()
    for name, parameter in model.named_parameters():
        if "linear.weight" in name:
            parameter.data.mul_(gain)
    return model.eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


# --- the density, against what is known -------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_linear_flow_has_its_closed_form(x: Tensor, training: bool) -> None:
    model = _linear_flow().train(training)
    end = float(model.flows[0].end_time.detach())
    z = x @ torch.linalg.matrix_exp(A * end).T
    expected = standard_normal(z) + end * A.trace()
    torch.testing.assert_close(model.log_prob(x).detach(), expected, rtol=1e-8, atol=1e-8)


def test_linear_flow_is_the_normal_distribution_that_it_should_be(x: Tensor) -> None:
    model = _linear_flow()
    back = torch.linalg.matrix_exp(-A * float(model.flows[0].end_time.detach()))
    expected = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=torch.float64), back @ back.T).log_prob(x)
    torch.testing.assert_close(model.log_prob(x), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
@pytest.mark.parametrize("probes", [1, 4])
def test_estimated_log_density_is_unbiased_with_the_known_variance(noise: str, probes: int) -> None:
    many = 50_000
    model = _linear_flow(Hutchinson(noise, probes)).train()
    end = float(model.flows[0].end_time.detach())
    x = torch.ones(many, 3, dtype=torch.float64)
    with torch.no_grad():
        got = model.log_prob(x, torch.Generator().manual_seed(0))
        expected = float(_linear_flow().log_prob(x[:1]))
    s = (A + A.T) / 2
    off_diagonal = s.square().sum() - s.diagonal().square().sum()
    variance = end**2 / probes * 2 * float(off_diagonal if noise == "rademacher" else s.square().sum())
    # Five standard errors: a right estimate fails for one seed in two million.
    assert abs(float(got.mean()) - expected) < 5 * math.sqrt(variance / many)
    # The relative standard error of a sample variance is below sqrt(14 / 50 000) = 1.7 % for kurtosis below 15.
    assert float(got.var()) == pytest.approx(variance, rel=0.085)


@pytest.mark.parametrize("blocks", [1, 2])
def test_density_integrates_to_one(blocks: int) -> None:
    model = _wild(blocks=blocks, gain=4)
    step = 0.1
    axis = torch.arange(-7, 7, step, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        log_prob = model.log_prob(grid)
        bent = (log_prob - standard_normal(grid))[grid.abs().amax(1) < 2].abs().max()
    assert bent > 1, "the flow is so near to the identity that this shows nothing"
    assert float(log_prob.exp().sum()) * step**2 == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("layer", LAYERS)
def test_log_density_is_the_change_of_variables(layer: str) -> None:
    model = _wild(dim=3, layer=layer, blocks=2)
    x = torch.randn(3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def forward(x: Tensor) -> Tensor:
        z = x[None]
        for flow in model.flows:
            z = flow(z).z
        return z[0]

    jacobian = torch.autograd.functional.jacobian(forward, x)
    expected = standard_normal(forward(x)[None]) + jacobian.det().abs().log()
    torch.testing.assert_close(model.log_prob(x[None]), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("blocks", [1, 3])
def test_there_and_back_again(blocks: int) -> None:
    model = _wild(blocks=blocks)
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z = x
    for flow in model.flows:
        z = flow(z).z
    assert (z - x).abs().max() > 0.3
    for flow in reversed(model.flows):
        z = flow.inverse(z)
    torch.testing.assert_close(z, x, rtol=1e-7, atol=1e-7)


def test_samples_are_the_base_carried_back() -> None:
    model = _wild(blocks=2)
    with torch.no_grad():
        samples = model.sample(30, torch.Generator().manual_seed(3))
    z = samples
    for flow in model.flows:
        z = flow(z).z
    base = torch.randn(30, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close(z, base, rtol=1e-6, atol=1e-6)


def test_samples_follow_the_density() -> None:
    model = _linear_flow()
    with torch.no_grad():
        samples = model.sample(40_000, torch.Generator().manual_seed(0))
    back = torch.linalg.matrix_exp(-A * float(model.flows[0].end_time.detach()))
    torch.testing.assert_close(samples.T.cov(), back @ back.T, rtol=0.05, atol=0.02)


# --- training and evaluation ------------------------------------------------------------------------------------------


def test_training_draws_its_noise_from_the_generator_and_evaluation_needs_none(x: Tensor) -> None:
    model = FFJORD.build((3,), None, Tools(gradient="direct"), dims=(8,)).double().train()
    before = torch.random.get_rng_state()
    once, again, other = (model.log_prob(x, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    model.eval()
    assert torch.equal(model.log_prob(x, torch.Generator().manual_seed(0)), model.log_prob(x))
    assert torch.equal(before, torch.random.get_rng_state())


def test_noise_is_drawn_once_for_a_solve_and_kept_nowhere(x: Tensor) -> None:
    class Counting(Hutchinson):
        drawn = 0

        def draw(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
            type(self).drawn += 1
            return super().draw(y, generator)

    model = FFJORD.build((3,), None, Tools(gradient="direct", trace=Counting()), dims=(8,), blocks=2).double()
    model.log_prob(x)
    assert Counting.drawn == 2
    kept = [name for module in model.modules() for name, value in vars(module).items() if isinstance(value, Tensor)]
    assert kept == []
    assert dict(model.named_buffers()) == {}


def test_evaluation_can_use_the_trace_of_training() -> None:
    def traces(**options: Any) -> tuple[Any, Any]:
        modes = FFJORD.build((2,), None, Tools(trace=Hutchinson(probes=2)), **options).flows[0].modes
        return modes[True].trace, modes[False].trace

    assert traces() == (Hutchinson(probes=2), Exact())
    assert traces(eval_trace="train") == (Hutchinson(probes=2), Hutchinson(probes=2))


@pytest.mark.parametrize(
    ("tools", "options", "training", "evaluation"),
    [
        (Tools(), {}, (1e-3, 1e-3), (1e-5, 1e-5)),
        (Tools(rtol=1e-4), {}, (1e-4, 1e-3), (1e-5, 1e-5)),
        (Tools(rtol=1e-8, atol=1e-9), {}, (1e-8, 1e-9), (1e-8, 1e-9)),
        (Tools(rtol=1e-8), {"eval_rtol": 1e-2, "eval_atol": 1e-3}, (1e-8, 1e-3), (1e-2, 1e-3)),
    ],
)
def test_evaluation_is_never_looser_than_training_unless_told_so(
    tools: Tools, options: dict[str, float], training: tuple[float, float], evaluation: tuple[float, float]
) -> None:
    modes = FFJORD.build((2,), None, tools, **options).flows[0].modes
    assert (modes[True].options["rtol"], modes[True].options["atol"]) == training
    assert (modes[False].options["rtol"], modes[False].options["atol"]) == evaluation


def test_the_tools_reach_the_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    solve = odekit.solve
    monkeypatch.setattr(odekit, "solve", lambda *args, **options: seen.append(options) or solve(*args, **options))
    model = FFJORD.build((2,), None, Tools(solver="rk4", gradient="checkpointed", step_size=0.1, max_steps=50))
    model.log_prob(torch.zeros(1, 2))
    model.eval().log_prob(torch.zeros(1, 2))
    model.sample(1)
    common = {"solver": "rk4", "gradient": "checkpointed", "step_size": 0.1, "max_steps": 50}
    for options, tolerance in zip(seen, (1e-3, 1e-5, 1e-5), strict=True):
        assert {**common, "rtol": tolerance, "atol": tolerance}.items() <= options.items()


def test_every_block_keeps_the_cost_of_its_latest_solve() -> None:
    model = FFJORD.build((2,), None, Tools(gradient="adjoint"), dims=(8,), blocks=3)
    assert model.solve_stats() == []
    model.loss(torch.randn(4, 2))[0].backward()
    costs = model.solve_stats()
    assert len(costs) == 3
    assert all(isinstance(cost, Stats) and cost.nfe > 0 and cost.nfe_backward > 0 for cost in costs)


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS)
def test_every_parameter_of_every_layer_gets_a_gradient(layer: str) -> None:
    torch.manual_seed(0)
    model = FFJORD.build((2,), None, Tools(gradient="direct"), layer=layer, dims=(6, 5))
    model.loss(torch.randn(8, 2), generator=torch.Generator().manual_seed(0))[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("trace", [Exact(), Hutchinson()])
@pytest.mark.parametrize("gradient", ["direct", "checkpointed", "adjoint"])
def test_gradients_match_finite_differences(gradient: str, trace: Any) -> None:
    """Of the end time, of a bias in the last layer and of a weight in the first, regularisers included."""
    torch.manual_seed(0)
    tools = Tools(gradient=gradient, trace=trace, **TIGHT)
    model = FFJORD.build((2,), None, tools, dims=(6,), blocks=2, kinetic=0.3, frobenius=0.2).double()
    x = torch.randn(5, 2, dtype=torch.float64)

    def loss() -> Tensor:
        return model.loss(x, generator=torch.Generator().manual_seed(0))[0]

    loss().backward()
    for flow in model.flows:
        layers = flow.field.layers
        for parameter in (flow.root_end_time, layers[-1].linear.bias, layers[0].linear.weight):
            got = float(parameter.grad.reshape(-1)[0])
            values = []
            for change in (1e-4, -1e-4):
                with torch.no_grad():
                    parameter.view(-1)[0] += change
                    values.append(float(loss()))
                    parameter.view(-1)[0] -= change
            assert got == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-5, abs=1e-7)


def test_end_time_is_learnt_only_if_asked_for() -> None:
    def trained(**options: Any) -> set[str]:
        model = FFJORD.build((2,), None, Tools(gradient="direct"), dims=(4,), **options)
        assert float(model.flows[0].end_time.detach()) == pytest.approx(options.get("end_time", 0.5))
        model.loss(torch.randn(4, 2))[0].backward()
        return {name for name, parameter in model.named_parameters() if parameter.grad is not None}

    assert "flows.0.root_end_time" in trained(end_time=0.8)
    assert "flows.0.root_end_time" not in trained(learn_end_time=False)


# --- regularisers -----------------------------------------------------------------------------------------------------


def test_regularisers_of_a_linear_flow_have_their_closed_forms(x: Tensor) -> None:
    model = _linear_flow(kinetic=0.3, frobenius=0.2)
    end = float(model.flows[0].end_time.detach())
    transport = model.flows[0](x, None, ("kinetic", "frobenius"))
    torch.testing.assert_close(transport.penalties["frobenius"], (end * A.square().sum()).expand(9))
    nodes, weights = torch.tensor(_gauss_legendre(20), dtype=torch.float64)
    paths = [x @ torch.linalg.matrix_exp(A * end * (node + 1) / 2).T for node in nodes]
    kinetic = sum(w * (path @ A.T).square().sum(1) for w, path in zip(weights, paths, strict=True)) * end / 2
    torch.testing.assert_close(transport.penalties["kinetic"], kinetic)
    loss, details = model.loss(x)
    torch.testing.assert_close(details["nll"], -model.log_prob(x).mean().detach())
    torch.testing.assert_close(details["kinetic"], kinetic.mean())
    torch.testing.assert_close(loss.detach(), details["nll"] + 0.3 * details["kinetic"] + 0.2 * details["frobenius"])


def _gauss_legendre(n: int) -> Any:
    import numpy as np

    return np.stack(np.polynomial.legendre.leggauss(n))


def test_frobenius_regulariser_is_unbiased_with_hutchinson() -> None:
    many = 20_000
    model = _linear_flow(Hutchinson(), frobenius=1.0).train()
    with torch.no_grad():
        transport = model.flows[0](torch.zeros(many, 3).double(), torch.Generator().manual_seed(0), ("frobenius",))
    got = transport.penalties["frobenius"]
    expected = float(model.flows[0].end_time.detach()) * float(A.square().sum())
    # Five standard errors: a right estimate fails for one seed in two million.
    assert abs(float(got.mean()) - expected) < 5 * float(got.std()) / math.sqrt(many)
    assert got.std() > 0.1


def test_regularisers_cost_no_evaluation_and_only_where_asked_for() -> None:
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    costs = {}
    for weights in ((0.0, 0.0), (0.1, 0.0), (0.1, 0.1)):
        torch.manual_seed(0)
        tools = Tools(solver="rk4", gradient="direct", step_size=0.1)
        model = FFJORD.build((2,), None, tools, dims=(4,), kinetic=weights[0], frobenius=weights[1])
        calls: list[int] = []
        model.flows[0].field.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        _, details = model.loss(x)
        costs[weights] = len(calls)
        asked = {name for name, weight in zip(cnf.PENALTIES, weights, strict=True) if weight}
        assert set(details) == {"nll"} | asked
    assert len(set(costs.values())) == 1


def test_regularisers_accumulate_over_blocks(x: Tensor) -> None:
    tools = Tools(trace="exact", gradient="direct", **TIGHT)
    flows = [CNF(Linear(A), tools, tools, 0.3), CNF(Linear(2 * A), tools, tools, 0.2)]
    _, details = FFJORD((3,), flows, {"frobenius": 1.0}).double().loss(x)
    expected = float(A.square().sum()) * (0.3 + 4 * 0.2)
    assert float(details["frobenius"]) == pytest.approx(expected, rel=1e-6)


# --- the whole model --------------------------------------------------------------------------------------------------


def test_registered_by_name() -> None:
    assert catalog().get("model", "ffjord") is FFJORD
    assert FFJORD.task == "density"


@pytest.mark.parametrize("shape", [(2,), (1, 3, 2), ()])
def test_samples_of_any_shape(shape: tuple[int, ...]) -> None:
    model = FFJORD.build(shape, None, Tools(), dims=(4,)).eval()
    with torch.no_grad():
        samples = model.sample(5, torch.Generator().manual_seed(0))
        assert samples.shape == (5, *shape)
        assert model.log_prob(samples).shape == (5,)


@pytest.mark.parametrize("solver", ["euler", "rk4", "bosh3", "tsit5", "kvaerno3"])
def test_any_solver_will_do(solver: str) -> None:
    torch.manual_seed(0)
    steps = {"step_size": 0.01} if solver in ("euler", "rk4") else {}
    model = FFJORD.build((2,), None, Tools(solver=solver, gradient="direct", **steps), dims=(8,)).double()
    reference = FFJORD.build((2,), None, Tools(solver="dopri5", rtol=1e-9, atol=1e-9), dims=(8,)).double().eval()
    reference.load_state_dict(model.state_dict())
    x = torch.randn(4, 2, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model.eval().log_prob(x), reference.log_prob(x), rtol=1e-3, atol=1e-3)
    loss, _ = model.train().loss(x, generator=torch.Generator().manual_seed(0))
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_saved_state_gives_the_same_density() -> None:
    model, other = (FFJORD.build((2,), None, Tools(), dims=(8,), blocks=2).eval() for _ in range(2))
    x = torch.randn(4, 2)
    with torch.no_grad():
        assert not torch.equal(model.log_prob(x), other.log_prob(x))
        other.load_state_dict(model.state_dict())
        assert torch.equal(model.log_prob(x), other.log_prob(x))


def test_eight_gaussians_are_learnt() -> None:
    data = EightGaussians.load(None, 0, train=5_000, test=500)
    torch.manual_seed(0)
    model = FFJORD.build(data.shape, None, Tools(gradient="direct", trace="exact"), dims=(32, 32))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        rows = torch.randint(len(data.train), (128,), generator=generator)
        loss, _ = model.loss(data.train.x[rows], generator=generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        got = float(model.eval().log_prob(data.test.x).mean())
    gaussian = float(torch.distributions.Normal(0, data.train.x.std(0)).log_prob(data.test.x).sum(1).mean())
    assert gaussian == pytest.approx(-4.24, abs=0.1)
    # The truth is log 8 + log(2πe / 8) = -2.84 with the sign turned, the best Gaussian is 1.4 below it.
    assert got > gaussian + 0.7


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinetics": 0.1}, "ffjord has no option 'kinetics'. Did you mean 'kinetic'"),
        ({"layer": "concatsqash"}, "layer='concatsqash'; expected one of ignore, concat, "),
        ({"nonlinearity": "sine"}, "nonlinearity='sine'; expected one of tanh, "),
        ({"dims": "64,x"}, "dims='64,x'; expected positive whole numbers"),
        ({"blocks": 0}, "blocks=0; expected a whole number, at least 1"),
        ({"end_time": 0}, "end_time=0; expected a finite number, above 0"),
        ({"eval_trace": "hutchinson"}, "eval_trace='hutchinson'; expected one of exact, train"),
        ({"kinetic": -1}, "kinetic=-1; expected a finite number, at least 0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        FFJORD.build((2,), None, Tools(), **options)
    assert message in str(caught.value)


def test_an_unknown_trace_is_refused_when_the_model_is_built() -> None:
    with pytest.raises(NameNotFound, match="hutchinson"):
        FFJORD.build((2,), None, Tools(trace="hutchison"))


@pytest.mark.parametrize("x", [torch.zeros(4, 3), torch.zeros(4), torch.zeros(4, 2).double(), torch.zeros(())])
def test_wrong_samples_are_refused(x: Tensor) -> None:
    model = FFJORD.build((2,), None, Tools(), dims=(4,))
    with pytest.raises(InputError, match=r"this model is of samples of shape \(2,\) in torch\.float32"):
        model.log_prob(x)
