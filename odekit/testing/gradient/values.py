"""Whether gradients are right: for every input, once and twice."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

from odekit.core.protocols import GradientMethod
from odekit.errors import GradientError
from odekit.solving import solve
from odekit.testing.checks import Checks, Measured, NotApplicable
from odekit.testing.gradient.cases import COARSE, FINE, SETTLED, Case, along, largest_gap, worst_of
from odekit.testing.measure import apart, difference, digits
from odekit.testing.probe import Counted
from odekit.testing.problems import DOUBLE

CHECKS = Checks()


@attrs.frozen(eq=False)
class GradientSubject:
    """A gradient method."""

    method: GradientMethod

    @classmethod
    def of(cls, given: type[GradientMethod] | GradientMethod) -> GradientSubject:
        """The subject for a class or an instance."""
        return cls(given() if isinstance(given, type) else given)

    @property
    def steady(self) -> bool:
        """Whether the method is for steady states alone."""
        return self.method.steady

    def case(self) -> Case:
        """A problem of the method's kind."""
        return Case.fresh(self.steady)

    @property
    def options(self) -> Any:
        """How that is solved."""
        return SETTLED if self.steady else COARSE


@CHECKS.add
def gradient(subject: GradientSubject) -> Measured:
    """For every input the gradient is that of the computed numbers, or converges to that of the ODE, as declared."""
    method, case = subject.method, subject.case()
    if method.exact:
        gaps = along(case.gradients(method, COARSE), case.slopes(method, COARSE))
        return Measured(
            max(gaps.values()) < 1e-6, f"{worst_of(gaps)} from differences", "exact: within 1e-6 for each input",
            _all(gaps), {"digits": digits(max(gaps.values()))},
        )  # fmt: skip
    if subject.steady:
        expected = case.gradients("direct", {"solver": "dopri5", "step_size": 0.4})
        gaps = largest_gap(case.gradients(method, SETTLED), expected)
        gaps["y0"] = float(case.gradients(method, SETTLED)["y0"].abs().max())  # which plays no part
        first = gaps
    else:
        expected = case.gradients("direct", FINE)
        first, gaps = (
            largest_gap(case.gradients(method, {"solver": "dopri5", "rtol": rtol, "atol": rtol}), expected)
            for rtol in (1e-4, 1e-9)
        )
    error = max(gaps.values())
    converges = error < 1e-8 or error < 1e-2 * max(first.values())
    return Measured(
        error < 1e-5 and converges,
        f"{worst_of(gaps)} from the gradient of the ODE at a tolerance of 1e-9",
        "convergent: within 1e-5 for each input, and a hundred times what it is at 1e-4",
        _all(gaps),
        {"digits": digits(error)},
    )


def _all(gaps: dict[str, float]) -> str:
    return ", ".join(f"{name} {gap:.1e}" for name, gap in gaps.items())


@CHECKS.add
def frozen(subject: GradientSubject) -> Measured:
    """A frozen parameter gets no gradient, and a tied one the sum over its uses."""
    case, options = subject.case(), subject.options
    case.loss(case.solve(subject.method, options)).backward()
    untied = subject.case()
    untied.net.again = torch.nn.Parameter(untied.net.inner.detach().clone())
    untied.loss(untied.solve(subject.method, options)).backward()
    tied, parts = case.net.inner.grad, (untied.net.inner.grad, untied.net.again.grad)
    if tied is None or any(part is None for part in parts):
        return Measured(False, "a parameter without gradient", "a gradient for each")
    gap = apart(tied, sum(parts))  # type: ignore[arg-type]
    holds = gap < (1e-9 if subject.method.exact else 1e-3) and case.net.frozen.grad is None
    return Measured(holds, f"tied {gap:.1e} apart, frozen {case.net.frozen.grad}", "the sum, and None")


@CHECKS.add
def one_tensor_everywhere(subject: GradientSubject) -> Measured:
    """A tensor that y0, args= and f share gets the sum of what it gets in each place."""
    start = torch.tensor([[0.4, -0.3], [0.2, 0.1]], dtype=DOUBLE)
    options = dict(subject.options)
    times = [0.0, 40.0] if subject.steady else [0.0, 1.0]

    def grads(*places: Tensor) -> Tensor:
        y0, argument, captured = places

        def f(t: Tensor, y: Tensor, a: Tensor) -> Tensor:
            return torch.tanh(y @ captured) + torch.cos(a).mean(0) - y

        y1 = solve(f, torch.tanh(y0), times, args=(2 * argument,), gradient=subject.method, **options).y1
        found = torch.autograd.grad(y1.sum(), sorted(set(places), key=id))
        return torch.stack(found).sum(0)

    one = start.clone().requires_grad_()
    shared = grads(one, one, one)
    apart_ones = grads(*(start.clone().requires_grad_() for _ in range(3)))
    gap = apart(shared, apart_ones)
    return Measured(gap < (1e-9 if subject.method.exact else 1e-3), f"{gap:.1e} apart", "the sum")


@CHECKS.add
def twice(subject: GradientSubject) -> Measured:
    """The second derivative is right, or, unless it is declared, refused with a GradientError; never just wrong."""
    method, case = subject.method, subject.case()
    names = ["gain", "captured"]
    options = subject.options
    settled = {"solver": "dopri5", "step_size": 0.4}
    reference_options = settled if subject.steady else FINE if not method.exact else COARSE
    tight = {"solver": "dopri5", "rtol": 1e-9, "atol": 1e-10}
    used = options if subject.steady or method.exact else tight
    try:
        found = _second(case, method, used, names)
    except GradientError as error:
        return Measured(method.twice is not True, "refused", _declared(method.twice), str(error))
    if method.exact:
        gap = _second_by_differences(case, method, used, names, found)
    else:
        expected = _second(case, "direct", reference_options, names)
        gap = max(apart(one, other) for one, other in zip(found, expected, strict=True))
    near = 1e-6 if method.exact else 1e-4
    if method.twice is False:
        return Measured(False, f"{gap:.1e} apart", "refused, for twice is False")
    return Measured(gap < near, f"{gap:.1e} apart", f"{_declared(method.twice)}, within {near:g}")


def _declared(twice: bool | None) -> str:
    return "right" if twice else "right, or refused"


def _second(case: Case, method: Any, options: Any, names: list[str]) -> list[Tensor]:
    wrt = [case.inputs[name] for name in names]
    first = torch.autograd.grad(case.loss(case.solve(method, options)), wrt, create_graph=True)
    return list(torch.autograd.grad(torch.stack([grad.sum() for grad in first]).sum(), wrt))


def _second_by_differences(case: Case, method: Any, options: Any, names: list[str], found: list[Tensor]) -> float:
    gaps = []
    for name, second in zip(names, found, strict=True):
        value = case.inputs[name]
        start = value.detach().clone()

        def moved(size: float, name: str = name, start: Tensor = start) -> float:
            with torch.no_grad():
                case.inputs[name].copy_(start + size)
            first = case.gradients(method, options)
            return float(sum(first[each].sum() for each in names))

        slope = difference(moved)
        with torch.no_grad():
            value.copy_(start)
        gaps.append(abs(float(second.sum()) - slope) / max(abs(slope), 1e-3))
    return max(gaps)


@CHECKS.add
def counts(subject: GradientSubject) -> Measured:
    """Every call of f is counted, forwards in nfe, backwards in nfe_backward."""
    weight = torch.tensor([[0.3, -0.5], [0.4, 0.2]], dtype=DOUBLE, requires_grad=True)
    f = Counted(lambda t, y: torch.tanh(y @ weight) - y)
    times = [0.0, 40.0] if subject.steady else [0.0, 0.4, 1.0]
    y0 = torch.ones(2, 2, dtype=DOUBLE)
    solution = solve(f, y0, times, gradient=subject.method, dense=False, **subject.options)
    forwards = f.calls
    solution.y1.sum().backward()
    stats, backwards = solution.stats, f.calls - forwards
    said = f"{stats.nfe} of {forwards} forwards, {stats.nfe_backward} of {backwards} backwards"
    return Measured((stats.nfe, stats.nfe_backward) == (forwards, backwards), said, "all calls")


@CHECKS.add
def again(subject: GradientSubject) -> Measured:
    """A second backward pass over a retained graph gives the same, and without gradients none are made."""
    case, options = subject.case(), subject.options
    loss = case.loss(case.solve(subject.method, options))
    wrt = [case.inputs["captured"], case.net.gain]
    one, two = (torch.autograd.grad(loss, wrt, retain_graph=True) for _ in range(2))
    same = all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    with torch.no_grad():
        bare = case.solve(subject.method, options)
    holds = same and not bare.y1.requires_grad
    return Measured(holds, "the same" if same else "another gradient", "the same, and none under no_grad")


@CHECKS.add
def by_rows(subject: GradientSubject) -> Measured:
    """With batch="rows" the gradient is that of rows solved alone, or it is refused with a GradientError."""
    weight = torch.tensor([[0.3, -0.5], [0.4, 0.2]], dtype=DOUBLE, requires_grad=True)
    y0 = torch.tensor([[0.4, -0.3], [1.2, 0.1]], dtype=DOUBLE)
    options = dict(subject.options)
    spans = [[0.0, 40.0]] * 2 if subject.steady else [[0.0, 1.0], [0.9, 0.2]]

    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(y @ weight) - y

    def grads(rows: slice) -> Tensor:
        t = torch.tensor(spans, dtype=DOUBLE)[rows]
        y1 = solve(f, y0[rows], t, gradient=subject.method, batch="rows", **options).y1
        return torch.autograd.grad(y1.square().sum(), weight)[0]

    try:
        together = grads(slice(0, 2))
    except GradientError as error:
        raise NotApplicable(f"refused: {error}") from error
    gap = apart(together, grads(slice(0, 1)) + grads(slice(1, 2)))
    return Measured(gap < (1e-9 if subject.method.exact else 1e-3), f"{gap:.1e} apart", "the sum over rows")
