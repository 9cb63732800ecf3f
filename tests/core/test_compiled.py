"""Compiled steps give the numbers, the gradients and the counts of those that are not compiled."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from problems import TimedNetwork
from torch import Tensor

import odekit
from odekit.core.callbacks import Callbacks
from odekit.core.chunk import chunked
from odekit.core.compiled import CompiledStep
from odekit.core.control import FixedStep
from odekit.core.problem import pose
from odekit.errors import CompileWarning, InputError
from odekit.gradients import Direct
from odekit.solving import solver_named

DOUBLE = torch.float64


def traced(name: str, backend: str = "aot_eager") -> CompiledStep:
    return CompiledStep(solver_named(name), backend)


def solved(f: Any, solver: Any, rows: int = 5, t: Any = (0.0, 0.3, 1.0), **options: Any) -> Any:
    torch.manual_seed(1)
    y0 = torch.randn(rows, 2, dtype=DOUBLE, requires_grad=True)
    found = odekit.solve(f, y0, t, solver=solver, rtol=1e-6, atol=1e-6, **options)
    return found, torch.autograd.grad(found.ys.square().sum(), [y0, *f.parameters()])


SPANS = {
    "shared": {},
    "rows": {"batch": "rows", "t": torch.tensor([[0.0, 0.3, 1.0 + 0.1 * k] for k in range(5)], dtype=DOUBLE)},
}


@pytest.fixture(scope="module")
def network() -> TimedNetwork:
    """One for all tests, so that what is compiled for one serves the others."""
    return TimedNetwork()


WAYS = [
    pytest.param(gradient, batch, marks=[] if (gradient, batch) == ("checkpointed", "shared") else pytest.mark.slow)
    for gradient in ("direct", "checkpointed", "adjoint")
    for batch in SPANS
]


@pytest.mark.parametrize(("gradient", "batch"), WAYS)
def test_numbers_and_gradients_are_those_of_the_solver(network: TimedNetwork, gradient: str, batch: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours, ours_grad = solved(network, traced("dopri5"), gradient=gradient, **SPANS[batch])
    theirs, theirs_grad = solved(network, "dopri5", gradient=gradient, **SPANS[batch])
    torch.testing.assert_close(ours.ys, theirs.ys, rtol=1e-12, atol=1e-12)
    for a, b in zip(ours_grad, theirs_grad, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)
    assert torch.equal(torch.as_tensor(ours.stats.steps), torch.as_tensor(theirs.stats.steps))


@pytest.mark.parametrize("gradient", ["reversible", "symplectic"])
def test_methods_that_take_steps_apart_have_them_as_they_are(network: TimedNetwork, gradient: str) -> None:
    ours, ours_grad = solved(network, "rk4", gradient=gradient, step_size=0.1, compile="solve")
    theirs, theirs_grad = solved(network, "rk4", gradient=gradient, step_size=0.1)
    torch.testing.assert_close(ours.ys, theirs.ys, rtol=1e-12, atol=1e-12)
    for a, b in zip(ours_grad, theirs_grad, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def graphs(network: TimedNetwork, **options: Any) -> int:
    """How many graphs the compiler makes during a solve without gradients."""
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    with torch.no_grad():
        odekit.solve(network, torch.ones(options.pop("rows", 5), 2, dtype=DOUBLE), **{"t": [0.0, 1.0], **options})
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"] - before)


def test_nothing_is_compiled_again_for_other_times_tolerances_or_numbers_of_rows() -> None:
    f = TimedNetwork()
    assert graphs(f, solver=traced("tsit5"), rtol=1e-6) > 0
    assert graphs(f, solver=traced("tsit5"), rtol=1e-4, atol=1e-5) == 0
    assert graphs(f, solver=traced("tsit5"), t=[2.0, -1.0]) == 0
    assert graphs(f, solver=traced("tsit5"), rows=9) == 0
    assert graphs(f, solver=traced("tsit5"), dt_max=0.05) == 0


def test_calls_of_f_are_counted() -> None:
    f = TimedNetwork()
    y0 = torch.ones(3, 2, dtype=DOUBLE)
    with torch.no_grad():
        first = odekit.solve(f, y0, [0.0, 1.0], solver=traced("rk4"), step_size=0.1)
        ours = odekit.solve(f, y0, [0.0, 1.0], solver=traced("rk4"), step_size=0.1)
        theirs = odekit.solve(f, y0, [0.0, 1.0], solver="rk4", step_size=0.1)
    assert ours.stats.nfe == theirs.stats.nfe == 40
    assert first.stats.nfe == 44  # the first step that is compiled is compared with one that is not


def test_a_compiler_that_gets_it_wrong_is_found_out() -> None:
    def wrong(graph: Any, inputs: Any) -> Any:
        """A backend whose sums forget their last term, a little."""

        def run(*given: Any) -> Any:
            found = graph(*given)
            return tuple(x * (1 + 1e-3) if isinstance(x, Tensor) and x.ndim == 2 else x for x in found)

        return run

    y0, solver = torch.ones(3, 2, dtype=DOUBLE), CompiledStep(solver_named("rk4"), wrong)  # type: ignore[arg-type]
    with pytest.warns(CompileWarning, match="other numbers"):
        ours = odekit.solve(lambda t, y: -y, y0, [0.0, 1.0], solver=solver, step_size=0.1)
    theirs = odekit.solve(lambda t, y: -y, y0, [0.0, 1.0], solver="rk4", step_size=0.1)
    assert torch.equal(ours.ys, theirs.ys)


@pytest.mark.slow
def test_products_of_matrices_keep_their_weights() -> None:
    """Sums with a factor on a product of matrices are what PyTorch 2.13 compiled wrongly."""
    matrix = torch.tensor([[-0.1, -2.0], [2.0, -0.1]])

    def f(t: Tensor, y: Tensor) -> Tensor:
        return y @ matrix

    y0 = torch.randn(256, 2, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        ours = odekit.solve(f, y0, [0.0, 1.0], solver="rk4", step_size=1 / 64, compile="solve")
    theirs = odekit.solve(f, y0, [0.0, 1.0], solver="rk4", step_size=1 / 64)
    torch.testing.assert_close(ours.ys, theirs.ys, rtol=1e-5, atol=1e-5)


def test_a_time_at_an_end_is_not_rounded_beyond_it() -> None:
    seen = []

    def f(t: Tensor, y: Tensor) -> Tensor:
        return y * torch.sqrt(1 - t)  # NaN beyond 1

    seen.append(odekit.solve(f, torch.ones(2), [0.0, 1.0], solver=traced("rk4"), step_size=0.1).y1)
    assert torch.isfinite(seen[0]).all()


def test_arguments_and_what_f_closes_over_may_change_from_solve_to_solve() -> None:
    def with_rate(rate: Tensor) -> Any:
        return lambda t, y, scale: rate * scale * y

    for rate, scale in ((1.0, 2.0), (-0.5, 1.0), (0.3, 3.0)):
        f = with_rate(torch.tensor(rate, dtype=DOUBLE))
        found = odekit.solve(
            f, torch.ones(3, dtype=DOUBLE), [0.0, 1.0], solver=traced("dopri5"), rtol=1e-9, atol=1e-9,
            args=(torch.tensor(scale, dtype=DOUBLE),),
        )  # fmt: skip
        torch.testing.assert_close(found.y1, torch.full((3,), rate * scale, dtype=DOUBLE).exp(), rtol=1e-7, atol=0)


def test_what_cannot_be_compiled_is_solved_all_the_same_and_said_once() -> None:
    def f(t: Tensor, y: Tensor) -> Tensor:
        return -y if float(y.detach().sum()) > 0 else y

    y0 = torch.ones(2, dtype=DOUBLE)
    with pytest.warns(CompileWarning, match="could not be compiled"):
        found = odekit.solve(f, y0, [0.0, 1.0], solver=traced("rk4"), step_size=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        odekit.solve(f, y0, [0.0, 1.0], solver=traced("rk4"), step_size=0.1)
    torch.testing.assert_close(found.y1, odekit.solve(f, y0, [0.0, 1.0], solver="rk4", step_size=0.1).y1)


def test_errors_of_f_are_its_own() -> None:
    def f(t: Tensor, y: Tensor) -> Tensor:
        raise RuntimeError("no such thing")

    with pytest.raises(RuntimeError, match="no such thing"):
        odekit.solve(f, torch.ones(2), [0.0, 1.0], solver=traced("rk4"), step_size=0.1)


CHUNKS: dict[str, dict[str, Any]] = {
    "ends": {},
    "outputs inside": {"t": [0.0, 0.23, 0.61, 1.0]},
    "backwards": {"t": [1.0, 0.0]},
    "a prime number of steps": {"step_size": 1 / 31},
}


@pytest.mark.parametrize("case", CHUNKS)
@pytest.mark.parametrize("name", ["rk4", "alf"])
def test_fixed_steps_in_chunks_are_the_same_steps(case: str, name: str) -> None:
    options = {"t": [0.0, 1.0], "step_size": 1 / 48, **CHUNKS[case]}
    f, y0 = TimedNetwork(), torch.ones(3, 2, dtype=DOUBLE)
    problem = pose(f, y0, options["t"], args=(), rtol=None, atol=None, norm="rms", max_steps=100, adaptive=False)
    control = FixedStep(options["step_size"])
    problem, solver, control, length = chunked(problem, solver_named(name), control)  # type: ignore[assignment]
    assert length == (1 if "prime" in case else 16)
    assert problem.max_steps == (100 if "prime" in case else 7)
    ours = Direct().solve(problem, solver, control)
    theirs = odekit.solve(f, y0, solver=name, **options)
    torch.testing.assert_close(ours.ys, theirs.ys, rtol=1e-13, atol=1e-13)
    assert ours.stats.steps * length == theirs.stats.steps


def test_what_is_done_at_the_end_of_a_step_keeps_steps_single() -> None:
    def length(**options: Any) -> int:
        t = options.pop("t", [0.0, 1.0])
        problem = pose(
            TimedNetwork(), torch.ones(1, 2, dtype=DOUBLE), t, args=(), rtol=None, atol=None, norm="rms", max_steps=100,
            adaptive=False, **options,
        )  # fmt: skip
        return chunked(problem, solver_named("rk4"), FixedStep(1 / 48))[3]

    assert length() == 16
    assert length(step_times=[0.5]) == 1
    assert length(every_step=True) == 1
    assert length(callbacks=Callbacks(reached=lambda t, y: None)) == 1
    assert length(t=torch.linspace(0, 1, 20)) == 1
    assert length(t=[0.0, 0.0]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["direct", "checkpointed", "adjoint"])
def test_a_compiled_solve_has_the_gradients_of_its_steps(gradient: str) -> None:
    f = TimedNetwork()
    ours, ours_grad = solved(f, "rk4", t=[0.0, 1.0], gradient=gradient, step_size=1 / 8, compile="solve")
    theirs, theirs_grad = solved(f, "rk4", t=[0.0, 1.0], gradient=gradient, step_size=1 / 8)
    assert ours.stats.steps == theirs.stats.steps == ours.stats.accepted == 8
    torch.testing.assert_close(ours.ys, theirs.ys, rtol=1e-12, atol=1e-12)
    for a, b in zip(ours_grad, theirs_grad, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_the_option_says_what_it_takes() -> None:
    with pytest.raises(InputError, match="compile='loop'"):
        odekit.solve(lambda t, y: -y, torch.ones(2), [0.0, 1.0], compile="loop")


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["direct", "checkpointed", "adjoint"])
def test_the_same_by_machine_code(gradient: str) -> None:
    f = TimedNetwork()
    ours, ours_grad = solved(f, "dopri5", gradient=gradient, compile=True)
    theirs, theirs_grad = solved(f, "dopri5", gradient=gradient)
    torch.testing.assert_close(ours.ys, theirs.ys, rtol=1e-11, atol=1e-11)
    for a, b in zip(ours_grad, theirs_grad, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
