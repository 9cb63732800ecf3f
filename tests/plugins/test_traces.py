from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from odekit_traces.estimators import Exact, Hutchinson
from torch import Tensor, nn

from odekit.core.protocols import TraceEstimator
from odekit.errors import DynamicsError, InputError, OptionError
from odekit.registry import catalog

ESTIMATORS = {
    "exact": Exact(),
    "exact, one by one": Exact(chunk=1),
    "exact, all at once": Exact(chunk=None),
    "rademacher": Hutchinson(),
    "gaussian": Hutchinson("gaussian"),
    "3 probes": Hutchinson(probes=3),
}
every = pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
exactly = pytest.mark.parametrize("estimator", [e for e in ESTIMATORS.values() if e.exact])
T0 = torch.tensor(0.3, dtype=torch.float64)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def _net(d: int, generator: torch.Generator) -> nn.Module:
    net = nn.Sequential(nn.Linear(d, 7), nn.Tanh(), nn.Linear(7, d)).double()
    for parameter in net.parameters():
        parameter.data.normal_(generator=generator)
    return net


def _randn(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _jacobians(f: Callable[[Tensor, Tensor], Tensor], y: Tensor) -> Tensor:
    """``[B, D, D]``, one row of one sample at a time."""
    y = y.detach().requires_grad_()
    d = math.prod(y.shape[1:])
    dy = f(T0, y).flatten(1)
    rows = [torch.autograd.grad(dy[:, i].sum(), y, retain_graph=True)[0].flatten(1) for i in range(d)]
    return torch.stack(rows, dim=1)


# --- values ----------------------------------------------------------------------------------------------------------


@exactly
def test_exact_trace_of_a_linear_field(estimator: TraceEstimator, generator: torch.Generator) -> None:
    a = _randn(5, 5, generator=generator)
    y = _randn(4, 5, generator=generator)
    dy, trace = estimator(lambda t, y: t * y @ a.T, T0, y)
    torch.testing.assert_close(dy, 0.3 * y @ a.T)
    torch.testing.assert_close(trace, (0.3 * a.trace()).expand(4))


@exactly
@pytest.mark.parametrize("shape", [(3, 5), (3, 2, 4), (3, 1), (3,)])
def test_exact_trace_equals_a_loop_over_rows(
    estimator: TraceEstimator, shape: tuple[int, ...], generator: torch.Generator
) -> None:
    y = _randn(*shape, generator=generator)
    net = _net(math.prod(shape[1:]), generator)

    def f(t: Tensor, y: Tensor) -> Tensor:
        return (net(y.reshape(shape[0], math.prod(shape[1:]))) * (1 + t)).reshape(shape)

    dy, trace = estimator(f, T0, y)
    assert torch.equal(dy, f(T0, y))
    jacobian = torch.autograd.functional.jacobian(lambda y: f(T0, y), y).reshape(y.numel(), y.numel())
    torch.testing.assert_close(trace, jacobian.diagonal().reshape(shape[0], math.prod(shape[1:])).sum(1))


@every
def test_an_empty_batch_has_no_traces(estimator: TraceEstimator) -> None:
    y = torch.zeros(0, 3)
    dy, trace = estimator(lambda t, y: -y, T0, y, estimator.draw(y))
    assert dy.shape == (0, 3)
    assert trace.shape == (0,)


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_hutchinson_is_the_mean_of_its_forms(noise: str, generator: torch.Generator) -> None:
    y, net = _randn(6, 4, generator=generator), _net(4, generator)
    estimator = Hutchinson(noise, probes=3)
    e = estimator.draw(y, generator)
    dy, trace = estimator(lambda t, y: net(y), T0, y, e)
    jacobians = _jacobians(lambda t, y: net(y), y)
    torch.testing.assert_close(trace, torch.einsum("kbi,bij,kbj->b", e, jacobians, e) / 3)
    assert torch.equal(dy, net(y))


@every
def test_a_field_that_ignores_the_state_has_no_trace(estimator: TraceEstimator, generator: torch.Generator) -> None:
    y = _randn(3, 2, generator=generator)
    dy, trace = estimator(lambda t, y: torch.ones(3, 2, dtype=torch.float64) * t, T0, y, estimator.draw(y, generator))
    assert torch.equal(dy, torch.full((3, 2), 0.3, dtype=torch.float64))
    assert torch.equal(trace, torch.zeros(3, dtype=torch.float64))


# --- statistics ------------------------------------------------------------------------------------------------------

MANY = 200_000


def _samples(estimator: Hutchinson, a: Tensor, generator: torch.Generator) -> Tensor:
    """Independent estimates of tr a: one for each row of a large batch."""
    y = torch.zeros(MANY, len(a), dtype=torch.float64)
    return estimator(lambda t, y: y @ a.T, T0, y, estimator.draw(y, generator))[1]


def _variance(noise: str, a: Tensor) -> float:
    s = (a + a.T) / 2
    square = s.square().sum()
    return float(2 * (square - s.diagonal().square().sum()) if noise == "rademacher" else 2 * square)


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
@pytest.mark.parametrize("probes", [1, 4])
def test_hutchinson_is_unbiased_with_the_known_variance(noise: str, probes: int, generator: torch.Generator) -> None:
    a = _randn(6, 6, generator=generator)
    samples = _samples(Hutchinson(noise, probes), a, generator)
    variance = _variance(noise, a) / probes
    # Five standard errors of the mean: a right estimator fails for one seed in two million.
    assert abs(float(samples.mean() - a.trace())) < 5 * math.sqrt(variance / MANY)
    # A quadratic form in 6 normals has kurtosis below 15, so the sample variance has a relative standard error below
    # sqrt(14 / 200 000) = 0.84 %; five of them are 4.2 %.
    assert float(samples.var()) == pytest.approx(variance, rel=0.042)


def test_rademacher_noise_is_exact_on_diagonal_jacobians_and_gaussian_noise_is_not(generator: torch.Generator) -> None:
    y = _randn(50, 6, generator=generator)
    for noise, exact in (("rademacher", True), ("gaussian", False)):
        estimator = Hutchinson(noise)
        _, trace = estimator(lambda t, y: y.sin(), T0, y, estimator.draw(y, generator))
        assert torch.allclose(trace, y.cos().sum(1)) is exact


def test_frobenius_norm_is_exact_or_unbiased(generator: torch.Generator) -> None:
    a = _randn(5, 5, generator=generator)
    y = torch.zeros(MANY, 5, dtype=torch.float64)
    field = lambda t, y: y @ a.T  # noqa: E731
    dy, trace, norm = Exact().with_frobenius(field, T0, y[:3])
    torch.testing.assert_close(norm, a.square().sum().expand(3))
    torch.testing.assert_close(trace, a.trace().expand(3))
    for estimator in (Hutchinson(), Hutchinson("gaussian"), Hutchinson(probes=2)):
        noise = estimator.draw(y, generator)
        dy, trace, norm = estimator.with_frobenius(field, T0, y, noise)
        assert torch.equal(dy, field(T0, y))
        torch.testing.assert_close(trace, estimator(field, T0, y, noise)[1])
        # Five standard errors, taken from the sample itself.
        assert abs(float(norm.mean() - a.square().sum())) < 5 * float(norm.std()) / math.sqrt(MANY)


def test_an_estimator_without_a_frobenius_norm_says_so() -> None:
    class Plain(TraceEstimator):
        name = "plain"
        exact = True

        def __call__(self, f: Any, t: Tensor, y: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
            return Exact()(f, t, y)

    with pytest.raises(OptionError, match="'plain' has no estimate of the Jacobian's Frobenius norm"):
        Plain().with_frobenius(lambda t, y: y, T0, torch.ones(1, 1))


# --- noise -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_comes_from_the_generator_alone(noise: str, dtype: torch.dtype) -> None:
    y = torch.zeros(7, 3, dtype=dtype)
    estimator = Hutchinson(noise, probes=2)
    before = torch.random.get_rng_state()
    once, again, other = (estimator.draw(y, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert once.shape == (2, 7, 3)
    assert once.dtype == dtype
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    if noise == "rademacher":
        assert once.abs().eq(1).all()
        assert once.unique().tolist() == [-1, 1]


def test_exact_draws_nothing() -> None:
    assert Exact().draw(torch.zeros(2, 2)) is None


def test_everything_follows_the_device_of_the_state() -> None:
    y, a = torch.empty(3, 4, device="meta"), torch.empty(4, 4, device="meta")
    for estimator in ESTIMATORS.values():
        noise = estimator.draw(y, torch.Generator())
        dy, trace, norm = estimator.with_frobenius(lambda t, y: y @ a, torch.tensor(0.0, device="meta"), y, noise)
        assert dy.device == trace.device == norm.device == y.device


# --- derivatives -----------------------------------------------------------------------------------------------------


@every
def test_f_is_evaluated_once(estimator: TraceEstimator, generator: torch.Generator) -> None:
    net, y = _net(3, generator), _randn(4, 3, generator=generator)
    calls = []
    estimator(lambda t, y: calls.append(t) or net(y), T0, y, estimator.draw(y, generator))
    assert len(calls) == 1


@every
def test_first_and_second_derivatives_match_finite_differences(
    estimator: TraceEstimator, generator: torch.Generator
) -> None:
    y = _randn(2, 3, generator=generator).requires_grad_()
    w = _randn(3, 3, generator=generator).requires_grad_()
    t = T0.clone().requires_grad_()
    noise = estimator.draw(y, generator)

    def estimate(t: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        return estimator.with_frobenius(lambda t, y: torch.tanh(y @ w + t), t, y, noise)

    assert torch.autograd.gradcheck(estimate, (t, y, w))
    assert torch.autograd.gradgradcheck(estimate, (t, y, w))


@every
def test_gradients_reach_every_parameter_and_a_state_that_is_no_leaf(
    estimator: TraceEstimator, generator: torch.Generator
) -> None:
    net, leaf = _net(3, generator), _randn(4, 3, generator=generator).requires_grad_()
    y = leaf * 2
    _, trace = estimator(lambda t, y: net(y), T0, y, estimator.draw(y, generator))
    trace.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.abs().sum() > 0
    for name, parameter in net.named_parameters():
        if name != "2.bias":
            assert parameter.grad.abs().sum() > 0, name


@every
def test_without_gradients_there_is_no_graph(estimator: TraceEstimator, generator: torch.Generator) -> None:
    net, y = _net(3, generator), _randn(4, 3, generator=generator)
    noise = estimator.draw(y, generator)
    expected = estimator(lambda t, y: net(y), T0, y, noise)
    with torch.no_grad():
        dy, trace = estimator(lambda t, y: net(y), T0, y, noise)
    assert dy.grad_fn is trace.grad_fn is None
    assert not dy.requires_grad
    torch.testing.assert_close((dy, trace), tuple(value.detach() for value in expected))


@every
def test_inside_a_custom_autograd_function(estimator: TraceEstimator, generator: torch.Generator) -> None:
    net, y = _net(3, generator), _randn(4, 3, generator=generator).requires_grad_()
    noise = estimator.draw(y, generator)

    class Traced(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, y: Tensor) -> Tensor:
            ctx.save_for_backward(y)
            return estimator(lambda t, y: net(y), T0, y, noise)[1]

        @staticmethod
        def backward(ctx: Any, cotangent: Tensor) -> Tensor:
            (y,) = ctx.saved_tensors
            with torch.enable_grad():
                y = y.detach().requires_grad_()
                trace = estimator(lambda t, y: net(y), T0, y, noise)[1]
            return torch.autograd.grad(trace, y, cotangent)[0]

    (got,) = torch.autograd.grad(Traced.apply(y).square().sum(), y)
    (expected,) = torch.autograd.grad(estimator(lambda t, y: net(y), T0, y, noise)[1].square().sum(), y)
    torch.testing.assert_close(got, expected)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # PyTorch's own, in jvp
@every
def test_inside_other_function_transforms(estimator: TraceEstimator, generator: torch.Generator) -> None:
    net, y = _net(3, generator), _randn(4, 3, generator=generator)
    noise, direction = estimator.draw(y, generator), _randn(4, 3, generator=generator)

    def trace(y: Tensor) -> Tensor:
        return estimator(lambda t, y: net(y), T0, y, noise)[1]

    expected = torch.autograd.functional.jacobian(trace, y)
    torch.testing.assert_close(torch.func.jacrev(trace)(y), expected)
    tangent = torch.func.jvp(trace, (y,), (direction,))[1]
    torch.testing.assert_close(tangent, torch.einsum("bci,ci->b", expected, direction))


# --- mistakes --------------------------------------------------------------------------------------------------------


@every
def test_complex_states_are_refused(estimator: TraceEstimator) -> None:
    y = torch.zeros(2, 2, dtype=torch.complex64)
    with pytest.raises(InputError, match=r"complex64.*a trace needs a real state"):
        estimator(lambda t, y: y, T0, y, torch.ones(1, 2, 2))


@every
def test_a_field_of_another_shape_is_refused(estimator: TraceEstimator) -> None:
    y = torch.zeros(2, 3)
    with pytest.raises(DynamicsError, match=r"f returned shape \(2, 2\); y has shape \(2, 3\)"):
        estimator(lambda t, y: y[:, :2], T0, y, torch.ones(1, 2, 3))


def test_hutchinson_needs_its_noise() -> None:
    with pytest.raises(InputError, match="draw it once for the solve"):
        Hutchinson()(lambda t, y: y, T0, torch.zeros(2, 3))
    with pytest.raises(InputError, match=r"noise has shape \(2, 3\); expected \[probes, \*y\.shape\]"):
        Hutchinson()(lambda t, y: y, T0, torch.zeros(2, 3), torch.ones(2, 3))


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2"])
def test_counts_are_checked(count: Any) -> None:
    with pytest.raises(OptionError, match=r"hutchinson: probes=.*; expected a whole number, at least 1"):
        Hutchinson(probes=count)
    with pytest.raises(OptionError, match=r"exact: chunk=.*; expected a whole number, at least 1"):
        Exact(chunk=count)


def test_unknown_noise_is_refused_with_the_nearest() -> None:
    with pytest.raises(OptionError, match=r"Did you mean 'rademacher'\?"):
        Hutchinson("rademacer")


def test_both_are_registered() -> None:
    assert catalog().get("trace", "exact") is Exact
    assert catalog().get("trace", "hutchinson") is Hutchinson
    assert [catalog().entry("trace", name).facts["exact"] for name in ("exact", "hutchinson")] == [True, False]
