"""`adjoint`: converges to the exact gradient as its tolerance falls, obeys its settings, and says when it is lost."""

from __future__ import annotations

import math
import warnings
from typing import Any

import optree
import pytest
import torch
from problems import CAUTIOUS, DOUBLE, IMPLICIT, MULTISTEP, SOLVERS, Counted, slope, solver_class
from torch import Tensor, nn

from odekit import FixedStep, PIDControl, solve
from odekit.errors import AdjointDriftWarning, GradientError, InputError, SolveError
from odekit.gradients import Adjoint


def seeded(*shape: int, seed: int = 0, dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def driven(t: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    return torch.cos(t) * torch.tanh(y @ weight) - 0.1 * y**3


WEIGHT = (0.7 * seeded(2, 2, seed=1)).requires_grad_()
Y0 = (0.5 * seeded(3, 2)).requires_grad_()
TIMES = [0.0, 0.4, 1.0, 1.7]


def gradients(gradient: Any, t: Any = TIMES, f: Any = driven, **options: Any) -> Tensor:
    """All gradients of a loss that looks at every output, in one vector."""
    solution = solve(f, Y0, t, args=(WEIGHT,), gradient=gradient, **options)
    loss = (solution.ys * seeded(*solution.ys.shape, seed=2)).sum() + solution.y1.square().sum()
    return torch.cat([grad.reshape(-1) for grad in torch.autograd.grad(loss, [Y0, WEIGHT])])


TRUTH = gradients("direct", rtol=1e-12, atol=1e-13)


def error(found: Tensor) -> float:
    return float((found - TRUTH).abs().max() / TRUTH.abs().max())


@pytest.mark.parametrize("t", [TIMES, [1.7, 1.0, 0.4, 0.0]], ids=["forwards", "backwards"])
@pytest.mark.parametrize("norm", ["mixed", "seminorm", "rms", "max"])
def test_whatever_the_norm_the_gradient_is_that_of_the_ode(norm: str, t: list[float]) -> None:
    truth = gradients("direct", t, rtol=1e-12, atol=1e-13)
    found = gradients(Adjoint(norm=norm), t, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found, truth, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("solver", CAUTIOUS)
def test_it_converges_as_the_tolerance_falls(solver: str) -> None:
    kind = solver_class(solver)
    decades = {1: (2, 3, 4), 2: (2, 3, 4), 3: (4, 5, 6), 4: (4, 5, 6)}.get(kind.order, (4, 6, 8))
    power = min(1.0, kind.order / (kind.error_order + 1))
    tolerances = [10.0**-decade for decade in decades]
    errors = [error(gradients("adjoint", solver=solver, rtol=tol, atol=tol)) for tol in tolerances]
    assert errors[-1] < 30 * tolerances[-1] ** power
    assert slope(tolerances, errors) > 0.7 * power


@pytest.mark.filterwarnings("ignore::odekit.errors.AdjointDriftWarning")
@pytest.mark.parametrize("solver", SOLVERS)
def test_it_converges_at_the_order_of_the_solver_with_fixed_steps(solver: str) -> None:
    order = solver_class(solver).order
    sizes = {1: [0.04, 0.02, 0.01], 2: [0.1, 0.05, 0.025], 7: [0.85, 0.57, 0.34], 8: [0.85, 0.57, 0.34]}.get(
        order, [0.2, 0.1, 0.05]
    )
    sizes = [size / 2 for size in sizes] if solver in MULTISTEP else sizes
    if solver == "bdf":
        sizes = [size / 4 for size in sizes]
    errors = [error(gradients("adjoint", solver=solver, step_size=size)) for size in sizes]
    assert slope(sizes, errors) > order - (0.4 if order < 7 else 1.2)  # few steps fit above rounding


def test_its_own_tolerances_count() -> None:
    options = {"rtol": 1e-9, "atol": 1e-11}
    loose = error(gradients(Adjoint(rtol=1e-3, atol=1e-4), **options))
    tight = error(gradients(Adjoint(rtol=1e-9, atol=1e-11), **options))
    assert tight < 1e-7 < 1e-6 < loose < 1e-2


def cost(gradient: Any, **options: Any) -> tuple[int, int]:
    """Evaluations forwards and backwards."""
    solution = solve(driven, Y0, [0.0, 1.7], args=(WEIGHT,), gradient=gradient, **options)
    solution.y1.sum().backward(inputs=[Y0])
    return solution.stats.nfe, solution.stats.nfe_backward


@pytest.mark.parametrize("own", ["tsit5", "odekit:tsit5", solver_class("tsit5")()], ids=["name", "in full", "instance"])
def test_its_own_solver_counts(own: Any) -> None:
    """Seven-stage steps of 0.1 there, four-stage steps of 0.1 back, or the other way round."""
    there, back = cost(Adjoint(solver="rk4"), solver="dopri5", step_size=0.1)
    assert there == 17 * 6
    assert back == 17 * 4
    there, back = cost(Adjoint(solver=own, step_size=0.1), solver="rk4", step_size=0.1)
    assert there == 17 * 4
    assert back == 17 * 6


def test_its_own_step_size_and_control_count() -> None:
    _, back = cost(Adjoint(step_size=0.05), solver="rk4", step_size=0.1)
    assert back == 34 * 4
    _, back = cost(Adjoint(control=FixedStep(0.17)), solver="rk4", step_size=0.1)
    assert back == 10 * 4
    adaptive = Adjoint(solver="dopri5", control=PIDControl(first_step=0.1), rtol=1e-3, atol=1e-3)
    _, back = cost(adaptive, solver="rk4", step_size=0.1)
    assert back < 50
    with pytest.raises(InputError, match="not both"):
        cost(Adjoint(step_size=0.1, control="pi"))


def test_the_seminorm_does_not_wait_for_the_parameters() -> None:
    """A parameter that sees fast wiggles makes the mixed norm take more steps, and the seminorm not."""
    theta = torch.zeros((), dtype=DOUBLE, requires_grad=True)

    def f(t: Tensor, y: Tensor) -> Tensor:
        return -0.1 * y + theta * torch.sin(40 * t)

    steps, grads = {}, {}
    for norm in ("mixed", "seminorm"):
        gradient = Adjoint(norm=norm, rtol=1e-7, atol=1e-7)
        solution = solve(f, torch.ones(1, dtype=DOUBLE), [0.0, 10.0], gradient=gradient, rtol=1e-3, atol=1e-3)
        grads[norm] = float(torch.autograd.grad(solution.y1.sum(), theta)[0])
        steps[norm] = solution.stats.steps_backward
    assert steps["seminorm"] < steps["mixed"] / 3
    exact = (0.1 * math.sin(400) - 40 * math.cos(400) + 40 * math.exp(-1)) / (0.01 + 1600)
    assert grads["mixed"] == pytest.approx(exact, rel=1e-4)


def test_a_norm_may_be_any_callable() -> None:
    seen = []

    def norm(z: Tensor) -> Tensor:
        seen.append(tuple(z.shape))
        return z.abs().amax()

    found = gradients(Adjoint(norm=norm), rtol=1e-8, atol=1e-10)
    assert error(found) < 1e-6
    assert set(seen) == {(6 + 6 + 4,)}


# The parameters' integral as a quadrature


@pytest.mark.parametrize(
    "solver",
    [
        "midpoint", "rk4", "dopri5",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("euler", "dopri8", "kvaerno3", "rodas4", "bdf")),
    ],
)  # fmt: skip
def test_the_quadrature_converges_as_the_dense_output_does(solver: str) -> None:
    """At the order of the solver, or that of its dense output where this is lower."""
    kind = solver_class(solver)
    order = min(kind.order, kind.dense_order + 1)
    sizes = {1: [0.04, 0.02, 0.01], 2: [0.1, 0.05, 0.025], 8: [0.85, 0.57, 0.34]}.get(order, [0.2, 0.1, 0.05])
    sizes = [size / 4 for size in sizes] if solver == "bdf" else sizes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AdjointDriftWarning)
        errors = [error(gradients(Adjoint(quadrature=True), solver=solver, step_size=size)) for size in sizes]
    assert slope(sizes, errors) > order - (0.4 if order < 7 else 1.2)


def test_a_step_costs_a_call_for_every_node() -> None:
    """Beside its stages: half as many as the order says, and what the dense output takes."""
    fixed = {"solver": "dopri5", "step_size": 0.1}
    assert cost(Adjoint(quadrature=False), **fixed)[1] == 17 * 6
    assert cost(Adjoint(quadrature=True), **fixed)[1] == 17 * (6 + 1 + 3)
    assert cost(Adjoint(quadrature=True, solver="midpoint"), **fixed)[1] == 17 * (2 + 1 + 1)
    f = Counted(driven)
    solution = solve(f, Y0, TIMES, args=(WEIGHT,), gradient=Adjoint(quadrature=True))
    torch.autograd.grad(solution.y1.sum(), Y0)
    assert f.calls == solution.stats.nfe + solution.stats.nfe_backward


@pytest.mark.parametrize("norm", ["mixed", "seminorm", "rms", "max"])
def test_with_a_quadrature_no_norm_sees_the_integral(norm: str) -> None:
    sizes = []

    def hook(t: float, z: Tensor) -> None:
        sizes.append(z.numel())

    found = gradients(Adjoint(norm=norm, quadrature=True, callback=hook), rtol=1e-8, atol=1e-10)
    assert error(found) < 1e-6
    assert set(sizes) == {6 + 6}


def test_what_is_chosen_where_nothing_is_said() -> None:
    """The quadrature for many parameters, where backward steps adapt and the dense output is good enough."""
    few, many = (seeded(n, seed=5).requires_grad_() for n in (4, 1200))

    def width(weights: Tensor, **options: Any) -> int:
        """Numbers in the backward state."""
        seen: list[int] = []
        settings = {key: options.pop(key) for key in ("norm", "quadrature") if key in options}
        gradient = Adjoint(callback=lambda t, z: seen.append(z.numel()), **settings)
        y1 = solve(lambda t, y, w: -y * w.mean(), Y0, [0.0, 0.1], args=(weights,), gradient=gradient, **options).y1
        torch.autograd.grad(y1.sum(), Y0)
        return seen[0]

    assert width(few) == 12 + 4
    assert width(few, quadrature=True) == 12
    assert width(many) == width(many, norm="seminorm") == 12
    for options in (
        {"quadrature": False}, {"norm": "rms"}, {"step_size": 0.1}, {"solver": "radau5"}, {"solver": "bdf"},
    ):  # fmt: skip
        assert width(many, **options) == 12 + 1200, options
    with pytest.raises(InputError, match="quadrature='yes'"):
        Adjoint(quadrature="yes")


def test_rows_take_the_integral_as_they_are_told_to() -> None:
    """Rows together have a quadrature; with the integral in the state, or with hooks, each is solved alone."""
    sizes: list[int] = []
    options = {"batch": "rows", "rtol": 1e-8, "atol": 1e-10}
    for settings in ({}, {"quadrature": False}, {"callback": lambda t, z: sizes.append(z.numel())}):
        assert error(gradients(Adjoint(**settings), **options)) < 1e-6
    assert set(sizes) == {2 + 2 + 4}


@pytest.mark.filterwarnings("ignore::odekit.errors.AdjointDriftWarning")
def test_the_state_is_put_right_at_every_output() -> None:
    """A backward solve far too loose to follow y alone begins each section at the stored state, to the bit."""
    seen: dict[float, Tensor] = {}

    def f(t: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        seen.setdefault(float(t), y.detach().clone())
        return driven(t, y, weight)

    backwards = Adjoint(solver="euler", step_size=0.2)
    solution = solve(f, Y0, TIMES, args=(WEIGHT,), gradient=backwards, solver="rk4", step_size=0.1)
    seen.clear()
    torch.autograd.grad(solution.y1.sum(), Y0)
    for t, y in zip(TIMES[1:], solution.ys[1:], strict=True):
        assert torch.equal(seen[t], y)


def test_a_trajectory_that_is_lost_is_warned_of() -> None:
    """A strong contraction cannot be run backwards: y' = -50 (y - sin t) grows by exp(100) on its way back."""
    y0 = torch.ones(1, dtype=DOUBLE, requires_grad=True)

    def f(t: Tensor, y: Tensor) -> Tensor:
        return -50 * (y - torch.sin(t))

    solution = solve(f, y0, [0.0, 2.0], gradient="adjoint", rtol=1e-5, atol=1e-7)
    with pytest.warns(AdjointDriftWarning, match=r"from t = 2 to 0 missed the forward trajectory by .*'checkpointed'"):
        solution.y1.sum().backward()


def test_a_trajectory_that_is_not_lost_is_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for tolerance in (1e-3, 1e-6, 1e-9):
            gradients("adjoint", rtol=tolerance, atol=tolerance)


def test_a_backward_solve_that_fails_says_so() -> None:
    solution = solve(driven, Y0, [0.0, 1.7], args=(WEIGHT,), gradient=Adjoint(rtol=1e-12, atol=1e-13), max_steps=30)
    assert solution.status.ok
    with pytest.raises(SolveError, match=r"backward solve of gradient='adjoint' stopped at t = .*max_steps"):
        solution.y1.sum().backward()


def test_only_sections_that_the_loss_can_feel_are_solved() -> None:
    f = Counted(driven)
    solution = solve(f, Y0, TIMES, args=(WEIGHT,), gradient="adjoint")
    forward = f.calls
    torch.autograd.grad(solution.ys[1].sum(), Y0)
    assert max(f.times[forward:]) <= TIMES[1]


@pytest.mark.parametrize("solver", ["dopri5", "kvaerno3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128], ids=str)
def test_other_dtypes(dtype: torch.dtype, solver: str) -> None:
    rate = torch.tensor(-0.5 + 1j if dtype.is_complex else -0.5, dtype=dtype, requires_grad=True)
    y0 = seeded(3, 2, dtype=dtype).requires_grad_()

    def grads(gradient: Any) -> tuple[Tensor, ...]:
        ys = solve(lambda t, y: rate * y - 0.1 * y**2 * t, y0, [0.0, 0.4, 1.0], solver=solver, gradient=gradient).ys
        return torch.autograd.grad((ys * seeded(*ys.shape, seed=3, dtype=dtype)).abs().square().sum(), [y0, rate])

    for found, truth in zip(grads("adjoint"), grads("direct"), strict=True):
        assert found.dtype == dtype
        torch.testing.assert_close(found, truth, rtol=2e-3, atol=2e-3)


def test_real_parameters_of_a_complex_state() -> None:
    phase = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)
    y0 = torch.tensor([1.0 + 0.5j], dtype=torch.complex128)
    grads = []
    for gradient in ("direct", "adjoint"):
        y1 = solve(lambda t, y: 1j * phase * y, y0, [0.0, 1.0], gradient=gradient).y1
        grads.append(torch.autograd.grad(y1.real.sum(), phase)[0])
    assert grads[1].dtype == DOUBLE
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-5, atol=1e-7)


def test_complex_parameters_of_a_real_state_have_no_common_state() -> None:
    phase = torch.tensor(0.7 + 1j, dtype=torch.complex128, requires_grad=True)
    with pytest.raises(GradientError, match=r"complex parameters but a real state.*'checkpointed'"):
        solve(
            lambda t, y: (phase * y).real, torch.ones(1, dtype=DOUBLE), [0.0, 1.0], gradient=Adjoint(quadrature=False)
        )


@pytest.mark.parametrize("batch", ["shared", "rows"])
def test_complex_parameters_of_a_real_state_have_a_quadrature(batch: str) -> None:
    """y' = Re(p y): ∂y(1)/∂Re p = y(1), and the imaginary part has no say."""
    phase = torch.tensor(0.7 + 1j, dtype=torch.complex128, requires_grad=True)
    y0 = torch.ones(2, 1, dtype=DOUBLE)
    y1 = solve(lambda t, y: (phase * y).real, y0, [0.0, 1.0], gradient="adjoint", batch=batch).y1
    (found,) = torch.autograd.grad(y1.sum(), phase)
    torch.testing.assert_close(found, torch.tensor(2 * math.exp(0.7) + 0j, dtype=torch.complex128))


@pytest.mark.parametrize("solver", ["dopri5", "kvaerno3"])
def test_nested_states(solver: str) -> None:
    y0 = {"a": seeded(3, 2).requires_grad_(), "b": (seeded(3).requires_grad_(), seeded(seed=4).requires_grad_())}
    rate = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)

    def f(t: Tensor, y: Any) -> Any:
        mean = sum(leaf.mean() for leaf in optree.tree_leaves(y))
        return optree.tree_map(lambda leaf: torch.sin(leaf) * rate - 0.1 * leaf * mean, y)

    def grads(gradient: Any) -> tuple[Tensor, ...]:
        ys = solve(f, y0, [0.0, 0.3, 1.0], solver=solver, gradient=gradient).ys
        loss = sum(leaf.square().sum() for leaf in optree.tree_leaves(ys))
        return torch.autograd.grad(loss, [*optree.tree_leaves(y0), rate])

    for found, truth in zip(grads("adjoint"), grads("direct"), strict=True):
        torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("nest", [False, True], ids=["tensor", "nested"])
def test_tolerances_of_components_carry_over(nest: bool) -> None:
    """Given for y, they hold for its adjoint; beside them the adjoint may have a plain number of its own."""
    atol = torch.tensor([1e-9, 1e-8], dtype=DOUBLE)
    y0, rtol, f = (Y0, 1e-9, driven)
    if nest:
        y0, rtol, atol = {"y": Y0}, {"y": 1e-9}, {"y": atol}

        def f(t: Tensor, y: Any, weight: Tensor) -> Any:
            return {"y": driven(t, y["y"], weight)}

    truth = torch.autograd.grad(solve(driven, Y0, TIMES, args=(WEIGHT,), rtol=1e-12).y1.sum(), WEIGHT)[0]
    for gradient in (Adjoint(), Adjoint(rtol=1e-8), Adjoint(rtol=1e-8, atol=1e-9)):
        solution = solve(f, y0, TIMES, args=(WEIGHT,), gradient=gradient, rtol=rtol, atol=atol)
        y1 = solution.y1["y"] if nest else solution.y1
        torch.testing.assert_close(torch.autograd.grad(y1.sum(), WEIGHT)[0], truth, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("solver", IMPLICIT)
def test_an_implicit_backward_solve_of_a_stiff_system(solver: str) -> None:
    """The backward problem has the same stiffness, which the stages take without small steps."""
    fast = torch.tensor([-2000.0, -1.0], dtype=DOUBLE)
    target = torch.tensor([1.0, 2.0], dtype=DOUBLE, requires_grad=True)

    def f(t: Tensor, y: Tensor) -> Tensor:
        return fast * (y - target)

    t = torch.linspace(0, 1, 11, dtype=DOUBLE)
    step = None if solver == "kvaerno3" else 0.01
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AdjointDriftWarning)
        y1 = solve(f, torch.ones(2, dtype=DOUBLE), t, solver=solver, step_size=step, gradient="adjoint").y1
        (found,) = torch.autograd.grad(y1.sum(), target)
    torch.testing.assert_close(found, torch.tensor([1.0, 1 - math.exp(-1)], dtype=DOUBLE), rtol=2e-2, atol=0)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(2, 2).double()
        self.frozen = nn.Linear(2, 2).double().requires_grad_(False)
        self.unused = nn.Linear(2, 2).double()

    def forward(self, t: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        return self.frozen(torch.tanh(self.inner(y))) + 0 * weight.sum()


def test_frozen_and_unused_parameters() -> None:
    f = Net()
    found = []
    for gradient in ("direct", "adjoint"):
        f.zero_grad()
        y1 = solve(f, Y0.detach(), TIMES, args=(WEIGHT.detach(),), gradient=gradient, rtol=1e-9, atol=1e-11).y1
        y1.sum().backward()
        assert f.frozen.weight.grad is None
        assert f.unused.weight.grad is None
        found.append(f.inner.weight.grad)
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("batch", [1, 7])
def test_memory_does_not_grow_with_the_number_of_steps(batch: int) -> None:
    """What autograd and the method hold on to between the passes: the outputs, and nothing for each step."""
    held = []
    for size in (0.1, 0.01):
        solution = solve(
            driven,
            Y0[:1].expand(batch, 2),
            [0.0, 1.0],
            args=(WEIGHT,),
            solver="rk4",
            step_size=size,
            gradient="adjoint",
        )
        held.append(sum(x.numel() for x in solution.y1.grad_fn.saved_tensors if x is not None))
    assert held[0] == held[1]
