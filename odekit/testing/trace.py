"""What a trace estimator has to prove."""

from __future__ import annotations

import math
from typing import Any

import attrs
import torch
from torch import Tensor

from odekit.core.protocols import TraceEstimator
from odekit.errors import OptionError
from odekit.testing.checks import Checks, Measured, NotApplicable
from odekit.testing.measure import apart, difference, digits
from odekit.testing.problems import DOUBLE

TRACE_CHECKS = Checks()
"""In the order in which they are reported."""

_ROWS, _COPIES, _DRAWS = 24, 16, 300
_FAR = 5.5
"""Standard errors. A right estimator is farther off with a probability of 4e-8 a comparison, by the normal
distribution; with 25 comparisons a check, less than 1e-6. Seeds are fixed, so that a verdict stays what it is."""


@attrs.frozen(eq=False)
class TraceSubject:
    """A trace estimator, and the small network that it is tried on: dense Jacobians, no symmetry, rows unlike."""

    estimator: TraceEstimator
    weights: tuple[Tensor, Tensor]
    y: Tensor

    @classmethod
    def of(cls, given: type[TraceEstimator] | TraceEstimator, dtype: torch.dtype = DOUBLE) -> TraceSubject:
        """The subject for a class or an instance."""
        generator = torch.Generator().manual_seed(0)
        weights = (0.7 * torch.randn(size, dtype=DOUBLE, generator=generator) for size in ((5, 7), (7, 5)))
        y = torch.randn(_ROWS, 5, dtype=DOUBLE, generator=generator)
        inner, outer = (weight.to(dtype) for weight in weights)
        return cls(given() if isinstance(given, type) else given, (inner, outer), y.to(dtype))

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        """The vector field; rows do not interact."""
        inner, outer = self.weights
        return torch.tanh(y @ inner + t) @ outer - 0.3 * y

    @property
    def t(self) -> Tensor:
        """A time."""
        return torch.tensor(0.4, dtype=self.y.dtype)

    @property
    def jacobian(self) -> Tensor:
        """∂f/∂y of each row ``[B, D, D]``, in closed form."""
        inner, outer = self.weights
        slope = 1 - torch.tanh(self.y @ inner + self.t).square()
        scaled = torch.einsum("ih,bh,ho->boi", inner, slope, outer)
        return scaled - 0.3 * torch.eye(5, dtype=self.y.dtype)

    @property
    def trace(self) -> Tensor:
        """Its trace ``[B]``."""
        return self.jacobian.diagonal(dim1=-2, dim2=-1).sum(-1)

    def noise(self, seed: int) -> Tensor | None:
        """What the estimator draws with this seed."""
        return self.estimator.draw(self.y, torch.Generator().manual_seed(seed))

    def estimates(self) -> Tensor:
        """Estimates ``[draws, copies, B]``: those of one draw need not be independent, those of different draws are."""
        many = attrs.evolve(self, y=self.y.repeat(_COPIES, 1))
        with torch.no_grad():
            found = [self.estimator(self.f, self.t, many.y, many.noise(seed))[1] for seed in range(_DRAWS)]
        return torch.stack(found).reshape(_DRAWS, _COPIES, _ROWS)


def _scores(draws: Tensor, expected: Tensor) -> Tensor:
    """By how many standard errors the means of independent draws ``[draws, B]`` are above what is expected, by row.

    The last one is that of the sum over rows.
    """
    draws, expected = (torch.cat([x, x.sum(-1, keepdim=True)], -1) for x in (draws, expected))
    return (draws.mean(0) - expected) / (draws.std(0) / math.sqrt(len(draws))).clamp_min(1e-12)


@TRACE_CHECKS.add
def shapes(subject: TraceSubject) -> Measured:
    """What comes is f(t, y) itself and one trace a row, in the dtype of the state."""
    said = []
    for dtype in (torch.float64, torch.float32):
        tried = TraceSubject.of(subject.estimator, dtype)
        dy, trace = tried.estimator(tried.f, tried.t, tried.y, tried.noise(0))
        right = trace.shape == (_ROWS,) and trace.dtype == dtype and dy.dtype == dtype
        if not right or apart(dy, tried.f(tried.t, tried.y)) > 1e-6:
            said.append(f"for {dtype}: dy {tuple(dy.shape)} {dy.dtype}, trace {tuple(trace.shape)} {trace.dtype}")
    return Measured(not said, "; ".join(said) or "as they should be", "dy = f(t, y) [B, D], trace [B]")


@TRACE_CHECKS.add
def exact(subject: TraceSubject) -> Measured:
    """An exact estimator gives the trace itself, whatever was drawn."""
    if not subject.estimator.exact:
        raise NotApplicable("it is declared to be an estimate")
    worst = max(
        apart(subject.estimator(subject.f, subject.t, subject.y, subject.noise(seed))[1], subject.trace)
        for seed in (0, 1)
    )
    return Measured(worst < 1e-12, f"{worst:.1e} apart", "rounding", numbers={"digits": digits(worst)})


@TRACE_CHECKS.add
def unbiased(subject: TraceSubject) -> Measured:
    """The mean of many estimates is the trace, for each row and for their sum, within 5.5 standard errors."""
    _needs_noise(subject)
    means = subject.estimates().mean(1)
    scores = _scores(means, subject.trace).abs()
    row = int(scores[:-1].argmax())
    detail = f"row {row}: mean {float(means.mean(0)[row]):.4f}, trace {float(subject.trace[row]):.4f}"
    return Measured(float(scores.max()) < _FAR, f"{float(scores.max()):.1f} standard errors", f"below {_FAR}", detail)


@TRACE_CHECKS.add
def variance(subject: TraceSubject) -> Measured:
    """The variance of estimates is no more than the declared one, within 5.5 standard errors of a variance."""
    _needs_noise(subject)
    declared = subject.estimator.variance(subject.jacobian)
    spread = (subject.estimates() - subject.trace).square().mean(1)
    if declared is None:
        return Measured(True, f"{float(spread.mean()):.3g} on average", "not declared")
    above = float(_scores(spread, declared).max())
    ratio = float(spread.mean(0).sum() / declared.sum().clamp_min(1e-12))
    return Measured(
        above < _FAR,
        f"{ratio:.2f} of the declared variance",
        "no more than it",
        f"{above:.1f} standard errors above it in the worst row",
    )


@TRACE_CHECKS.add
def noise_of_a_generator(subject: TraceSubject) -> Measured:
    """One seed gives the same noise, another one other noise, and the global generator is not touched."""
    _needs_noise(subject)
    before = torch.random.get_rng_state()
    one, same, other = (subject.noise(seed) for seed in (0, 0, 1))
    untouched = torch.equal(before, torch.random.get_rng_state())
    if one is None or same is None or other is None:
        return Measured(False, "no noise", "noise, or exact = True")
    holds = torch.equal(one, same) and not torch.equal(one, other) and untouched
    said = "the global generator was used" if not untouched else "as the generator says" if holds else "by no seed"
    return Measured(holds, said, "by the generator alone")


@TRACE_CHECKS.add
def held_noise(subject: TraceSubject) -> Measured:
    """With the same noise the estimate is the same, so that a solver sees one right-hand side."""
    noise = subject.noise(0)
    one, two = (subject.estimator(subject.f, subject.t, subject.y, noise)[1] for _ in range(2))
    return Measured(torch.equal(one, two), f"{apart(one, two):.1e} apart", "the same")


@TRACE_CHECKS.add
def derivatives(subject: TraceSubject) -> Measured:
    """The estimate can be differentiated with respect to y and to what f uses, as differences say."""
    noise, ways = subject.noise(0), []
    leaves = [subject.weights[0].clone().requires_grad_(), subject.y.clone().requires_grad_()]

    def loss(inner: Tensor, y: Tensor) -> Tensor:
        moved = attrs.evolve(subject, weights=(inner, subject.weights[1]), y=y)
        dy, trace = subject.estimator(moved.f, subject.t, y, noise)
        return (trace * torch.linspace(0.5, 1.5, _ROWS, dtype=DOUBLE)).sum() + dy.square().sum()

    found = torch.autograd.grad(loss(*leaves), leaves)
    for index, leaf in enumerate(leaves):
        way = torch.randn(leaf.shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(3))

        def along(size: float, index: int = index, way: Tensor = way) -> float:
            moved = [x.detach() + (size * way if i == index else 0) for i, x in enumerate(leaves)]
            return float(loss(*moved).detach())

        slope = difference(along)
        ways.append(abs(float((found[index] * way).sum()) - slope) / max(abs(slope), 1e-3))
    said = f"parameters {ways[0]:.1e}, y {ways[1]:.1e}"
    return Measured(max(ways) < 1e-6, f"{said} from differences", "within 1e-6")


@TRACE_CHECKS.add
def cost(subject: TraceSubject) -> Measured:
    """An evaluation calls f once and forms as many products with its Jacobian as declared."""
    size = subject.y.shape[1]
    declared = subject.estimator.products(size)
    tally = Tally()

    def f(t: Tensor, y: Tensor) -> Tensor:
        tally.calls += 1
        out: Tensor = _Through.apply(subject.f(t, y), tally)
        return out

    subject.estimator(f, subject.t, subject.y, subject.noise(0))
    said = f"{tally.products} products, f called {tally.calls} times"
    if declared is None:
        return Measured(True, said, "not declared")
    return Measured(tally.products <= declared, said, f"{declared} products for rows of {size} numbers")


@TRACE_CHECKS.add
def frobenius(subject: TraceSubject) -> Measured:
    """The estimate of ‖∂f/∂y‖_F², where there is one, comes with the same trace, and is exact or unbiased like it."""
    estimator, noise = subject.estimator, subject.noise(0)
    truth = subject.jacobian.square().sum((-2, -1))
    try:
        dy, trace, norm = estimator.with_frobenius(subject.f, subject.t, subject.y, noise)
    except OptionError as error:
        raise NotApplicable(str(error)) from error
    plain = estimator(subject.f, subject.t, subject.y, noise)
    same = max(apart(dy, plain[0]), apart(trace, plain[1]))
    if estimator.exact:
        gap = max(same, apart(norm, truth))
        return Measured(gap < 1e-12, f"{gap:.1e} apart", "rounding")
    with torch.no_grad():
        found = torch.stack([
            estimator.with_frobenius(subject.f, subject.t, subject.y, subject.noise(seed))[2] for seed in range(_DRAWS)
        ])  # fmt: skip
    scores = _scores(found, truth).abs()
    holds = same < 1e-12 and float(scores.max()) < _FAR
    return Measured(holds, f"{float(scores.max()):.1f} standard errors, trace {same:.1e} apart", f"below {_FAR}")


def _needs_noise(subject: TraceSubject) -> None:
    if subject.estimator.exact:
        raise NotApplicable("it is declared to be exact")


@attrs.define(eq=False)
class Tally:
    """Calls of f, and products with its Jacobian."""

    calls: int = 0
    products: int = 0


class _Through(torch.autograd.Function):
    """The identity; what passes it backwards or in forward mode is a product with the Jacobian."""

    @staticmethod
    def forward(x: Tensor, tally: Tally) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.tally = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Product.apply(grad, ctx.tally), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        out: Tensor = _Product.apply(tangent, ctx.tally)
        return out

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, tally: Tally) -> tuple[Tensor, Any]:
        return _Through.apply(x, tally), in_dims[0]


class _Product(torch.autograd.Function):
    """Counts one; under vmap, as many as there are lanes."""

    @staticmethod
    def forward(x: Tensor, tally: Tally, lanes: int = 1) -> Tensor:
        tally.products += lanes
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return tangent.clone()

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, tally: Tally, lanes: int = 1) -> tuple[Tensor, Any]:
        return _Product.apply(x, tally, lanes * info.batch_size), in_dims[0]
