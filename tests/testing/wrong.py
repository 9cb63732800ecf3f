"""Plugins that are wrong, each in one way that is easily overlooked, next to right ones of the same making."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor, nn

from odekit.core.protocols import GradientMethod, ODESolver, Outcome, Step, TraceEstimator
from odekit.core.runge_kutta import combine
from odekit.core.solution import Status
from odekit.gradients import Direct


class ByHand(ODESolver):
    """Kutta's third-order method, whose coefficients nobody has checked."""

    name = "by-hand"
    order = 3
    dense_order = 3
    c: tuple[float, ...] = (0.0, 0.5, 1.0)
    a: tuple[tuple[float, ...], ...] = ((), (0.5,), (-1.0, 2.0))
    b: tuple[float, ...] = (1 / 6, 2 / 3, 1 / 6)

    def step(self, f: Any, t0: Any, t1: Any, y0: Tensor, carry: Any) -> Step:
        dt, slopes = t1 - t0, []
        for time, row in zip(f.times([t0 + c * dt if c < 1 else t1 for c in self.c]), self.a, strict=True):
            slopes.append(f(time, combine(y0, dt, row, slopes)))
        return Step(t0, t1, y0, combine(y0, dt, self.b, slopes))


class OneCoefficient(ByHand):
    """a32 and a31 with the right sum: bᵀAc = 1/4 in place of 1/6."""

    a = ((), (0.5,), (-0.5, 1.5))


class SlightlyOff(ByHand):
    """The same by one hundredth."""

    a = ((), (0.5,), (-0.99, 1.99))


class StageTimes(ByHand):
    """The second stage at a quarter of the step, which an autonomous problem cannot tell."""

    c = (0.0, 0.25, 1.0)


class OneWeight(ByHand):
    """Weights that sum to one, and no more: of order one."""

    b = (1 / 6, 1 / 2, 1 / 3)


class Straight(ByHand):
    """A straight line between the ends for a dense output of order three."""

    def interpolate(self, step: Step, theta: Any) -> Tensor:
        return step.y0 + theta * (step.y1 - step.y0)


class OpenEnded(ByHand):
    """A dense output that misses the end of the step a little."""

    def interpolate(self, step: Step, theta: Any) -> Tensor:
        return super().interpolate(step, theta) + 1e-6 * theta


class WrongEstimate(ByHand):
    """An error estimate of order two, declared to be one higher."""

    error_order = 2

    def step(self, f: Any, t0: Any, t1: Any, y0: Tensor, carry: Any) -> Step:
        step = super().step(f, t0, t1, y0, carry)
        return attrs.evolve(step, error=(t1 - t0) * (f(t1, step.y1) - f(t0, y0)))


class Remembers(ByHand):
    """Keeps the last slope on itself, and starts the next step with it."""

    def __init__(self) -> None:
        self.last: Tensor | None = None

    def step(self, f: Any, t0: Any, t1: Any, y0: Tensor, carry: Any) -> Step:
        step = super().step(f, t0, t1, y0, carry)
        if self.last is not None and self.last.shape == y0.shape:
            step = attrs.evolve(step, y1=step.y1 + 1e-9 * (t1 - t0) * self.last)
        self.last = f(t1, step.y1)
        return step


class Notes(ByHand):
    """Keeps numbers on its class that change nothing."""

    seen: list[float] = []  # noqa: RUF012

    def step(self, f: Any, t0: Any, t1: Any, y0: Tensor, carry: Any) -> Step:
        self.seen.append(float(y0.detach().abs().max()))
        return super().step(f, t0, t1, y0, carry)


class PastTheEnd(ByHand):
    """Looks a step ahead, without asking whether that is inside the span, and makes no use of it."""

    def step(self, f: Any, t0: Any, t1: Any, y0: Tensor, carry: Any) -> Step:
        step = super().step(f, t0, t1, y0, carry)
        f(t1 + 0.1 * (t1 - t0), step.y1)
        return step


class Mutates(ByHand):
    """Puts the new state where the old one was."""

    def step(self, f: Any, t0: Any, t1: Any, y0: Tensor, carry: Any) -> Step:
        step = super().step(f, t0, t1, y0, carry)
        with torch.no_grad():
            y0.copy_(step.y1)
        return attrs.evolve(step, y0=y0)


class Calls(ByHand):
    """Calls the user's f behind the counter's back."""

    def step(self, f: Any, t0: Any, t1: Any, y0: Tensor, carry: Any) -> Step:
        f.f(torch.as_tensor(t0, dtype=y0.real.dtype), y0)
        return super().step(f, t0, t1, y0, carry)


class Doubles(ByHand):
    """Computes in double precision, whatever the state."""

    def step(self, f: Any, t0: Any, t1: Any, y0: Tensor, carry: Any) -> Step:
        step = super().step(f, t0, t1, y0, carry)
        wide = torch.complex128 if y0.is_complex() else torch.float64
        return attrs.evolve(step, y1=step.y1.to(wide).to(y0.dtype))


class RealOnly(ByHand):
    """Loses imaginary parts."""

    def step(self, f: Any, t0: Any, t1: Any, y0: Tensor, carry: Any) -> Step:
        step = super().step(f, t0, t1, y0, carry)
        return attrs.evolve(step, y1=step.y1.real + 0j) if y0.is_complex() else step


class Mixes(ByHand):
    """Says that it steps by rows, and scales all rows by the largest."""

    rowwise = True

    def step(self, f: Any, t0: Any, t1: Any, y0: Tensor, carry: Any) -> Step:
        step = super().step(f, t0, t1, y0, carry)
        return attrs.evolve(step, y1=step.y1 + 1e-6 * step.y1.detach().abs().max()) if y0.ndim > 1 else step


class Ignores(ByHand):
    """Puts zeros where there is NaN."""

    def step(self, f: Any, t0: Any, t1: Any, y0: Tensor, carry: Any) -> Step:
        step = super().step(f, t0, t1, y0, carry)
        return attrs.evolve(step, y1=step.y1.nan_to_num(), status=Status.SUCCESS)


class Detaches(ByHand):
    """Takes a stage out of the gradient."""

    def step(self, f: Any, t0: Any, t1: Any, y0: Tensor, carry: Any) -> Step:
        step = super().step(f, t0, t1, y0, carry)
        if not y0.requires_grad:
            return step
        return attrs.evolve(step, y1=step.y1 + (t1 - t0) * (f(t1, y0) - f(t1, y0)).detach() + 0.01 * (y0.detach() - y0))


class Shortens(ByHand):
    """Advances more cheaply, to another state."""

    def advance(self, f: Any, t0: Any, t1: Any, y0: Tensor, carry: Any) -> Step:
        dt = t1 - t0
        return Step(t0, t1, y0, combine(y0, dt, (1.0,), [f(t0, y0)]))


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 1.001 * grad


class OffOnOneParameter(GradientMethod):
    """``direct``, but for a thousandth of the gradient of one parameter."""

    name = "off"
    exact = True
    memory = "steps × activations of f"

    def solve(self, problem: Any, solver: Any, control: Any) -> Outcome:
        f = problem.field.f
        net = next((cell.cell_contents for cell in f.__closure__ or () if hasattr(cell.cell_contents, "net")), None)
        if net is None:
            return Direct().solve(problem, solver, control)
        bias = net.net.bias
        net.net.bias = None
        del net.net._parameters["bias"]
        net.net.bias = _Scaled.apply(bias)
        try:
            return Direct().solve(problem, solver, control)
        finally:
            del net.net.bias
            net.net.bias = bias


class Greedy(Direct):
    """``direct`` under a formula of states alone."""

    memory = "steps × state + one evaluation's activations"


class Forgetful(GradientMethod):
    """The gradient with respect to y0, and no other."""

    name = "forgetful"
    exact = True
    memory = "steps × activations of f"

    def solve(self, problem: Any, solver: Any, control: Any) -> Outcome:
        with torch.no_grad():
            outcome = Direct().solve(problem, solver, control)
        moved = problem.y0 - problem.y0.detach()
        return attrs.evolve(outcome, ys=outcome.ys + moved, y1=outcome.y1 + moved)


class Probe(TraceEstimator):
    """Hutchinson's estimate with signs for noise, written once more."""

    name = "probe"
    exact = False

    def draw(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.randint(2, y.shape, dtype=y.dtype, generator=generator) * 2 - 1

    def variance(self, jacobian: Tensor) -> Tensor:
        symmetric = (jacobian + jacobian.mT) / 2
        return 2 * (symmetric.square().sum((-2, -1)) - symmetric.diagonal(dim1=-2, dim2=-1).square().sum(-1))

    def products(self, size: int) -> int:
        return 1

    def __call__(self, f: Any, t: Tensor, y: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        dy, pull = torch.func.vjp(lambda y: f(t, y), y)
        return dy, self.form(pull(noise)[0] * noise)

    def form(self, terms: Tensor) -> Tensor:
        return terms.sum(1)


class Biased(Probe):
    """Leaves out a tenth part."""

    def form(self, terms: Tensor) -> Tensor:
        return 0.9 * terms.sum(1)


class OneRowBiased(Probe):
    """Right on average over rows, and wrong for each."""

    def form(self, terms: Tensor) -> Tensor:
        return terms.sum(1).roll(1)


class Noisy(Probe):
    """Normal noise under the formula of signs."""

    def draw(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(y.shape, dtype=y.dtype, generator=generator)


class Costly(Probe):
    """Forms a product too many."""

    def __call__(self, f: Any, t: Tensor, y: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        dy, pull = torch.func.vjp(lambda y: f(t, y), y)
        return dy, self.form((pull(noise)[0] + 0 * pull(0.5 * noise)[0]) * noise)


class Global(Probe):
    """Draws from the global generator."""

    def draw(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.randint(2, y.shape, dtype=y.dtype) * 2 - 1


class NotExact(Probe):
    """An estimate that says it is exact."""

    exact = True


class Left(nn.Module):
    """A field with a parameter that it does not use."""

    name = "left"

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.linear(y)
        return out


class InPlace(nn.Module):
    """A field that changes its state."""

    name = "in-place"

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            y += 0
            y[..., 0] *= 0.5
        out: Tensor = self.linear(y)
        return out


class Dropping(nn.Module):
    """A field with dropout."""

    name = "dropping"

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return nn.functional.dropout(self.linear(y), 0.5)
