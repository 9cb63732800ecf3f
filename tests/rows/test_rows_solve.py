"""Steps by row: what comes out for a row is what that row alone gives, whatever the others do."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import odekit
from odekit.core.control import PIDControl
from odekit.core.protocols import StepControl
from odekit.errors import DynamicsError, InputError, SolveError
from tests.problems import DOUBLE

B = 6
MU = torch.logspace(-1, 1.3, B, dtype=DOUBLE)
Y0 = torch.stack([torch.linspace(1, 2, B, dtype=DOUBLE), torch.zeros(B, dtype=DOUBLE)], -1)
SPANS = torch.stack([torch.linspace(0.1 * b, 2.0 - b, 5, dtype=DOUBLE) for b in range(B)])  # both directions


def vdp(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
    x, v = y.unbind(-1)
    return torch.stack([v, mu * (1 - x * x) * v - x * torch.cos(t.reshape(-1))], -1)


@pytest.mark.parametrize("solver", ["dopri5", "tsit5", "bosh3", "heun", "rk4", "kvaerno3", "rodas5p"])
def test_each_row_is_solved_as_if_it_were_alone(solver: str) -> None:
    options = {"solver": solver, "rtol": 1e-4, "atol": 1e-6, "step_size": 0.05 if solver == "rk4" else None}
    found = odekit.solve(vdp, Y0, SPANS, args=(MU,), batch="rows", **options)
    assert found.ys.shape == (B, 5, 2)
    for b in range(B):
        alone = odekit.solve(vdp, Y0[b : b + 1], SPANS[b], args=(MU[b : b + 1],), **options)
        torch.testing.assert_close(found.ys[b], alone.ys[:, 0], rtol=1e-9, atol=1e-9)
        assert int(found.stats.steps[b]) == alone.stats.steps


@pytest.mark.parametrize("control", ["pi", "pid", "predictive"])
def test_other_controls_step_rows_as_they_step_one(control: str) -> None:
    found = odekit.solve(vdp, Y0, SPANS, args=(MU,), batch="rows", control=control, rtol=1e-4)
    alone = odekit.solve(vdp, Y0[3:4], SPANS[3], args=(MU[3:4],), control=control, rtol=1e-4)
    assert int(found.stats.steps[3]) == alone.stats.steps
    torch.testing.assert_close(found.ys[3], alone.ys[:, 0], rtol=1e-6, atol=1e-6)  # tiny errors are mostly rounding


class Wrapped(StepControl):
    """A control that knows shared steps only."""

    adaptive = True

    def __init__(self) -> None:
        self.inner = PIDControl()

    def start(self, *args, **kwargs):
        return self.inner.start(*args, **kwargs)

    def judge(self, *args):
        return self.inner.judge(*args)


def test_a_control_of_ones_own_is_asked_row_by_row() -> None:
    ours = odekit.solve(vdp, Y0, SPANS, args=(MU,), batch="rows", rtol=1e-4)
    theirs = odekit.solve(vdp, Y0, SPANS, args=(MU,), batch="rows", rtol=1e-4, control=Wrapped())
    torch.testing.assert_close(ours.ys, theirs.ys, rtol=1e-9, atol=1e-9)
    assert ours.stats.steps.equal(theirs.stats.steps)


def test_shared_times_give_outputs_as_shared_steps_do() -> None:
    t = torch.linspace(0, 1, 4, dtype=DOUBLE)
    found = odekit.solve(lambda t, y: -y, Y0, t, batch="rows")
    assert found.ts.shape == (4,)
    torch.testing.assert_close(found.ys, torch.exp(-t)[:, None, None] * Y0, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.y1, found.ys[-1])
    assert found.t1.tolist() == [1.0] * B


def test_per_row_tensors_in_a_closure_serve_as_well_as_args() -> None:
    by_args = odekit.solve(vdp, Y0, SPANS, args=(MU,), batch="rows")
    closed = odekit.solve(lambda t, y: vdp(t, y, MU), Y0, SPANS, batch="rows")
    torch.testing.assert_close(by_args.ys, closed.ys, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 4)])
def test_states_of_any_shape(shape: tuple[int, ...]) -> None:
    y0 = torch.rand(4, *shape, dtype=DOUBLE)
    t = torch.stack([torch.linspace(0, 1 + b, 3, dtype=DOUBLE) for b in range(4)])
    found = odekit.solve(lambda t, y: -t * y, y0, t, batch="rows")
    expected = torch.exp(-(t**2) / 2).reshape(4, 3, *(1,) * len(shape)) * y0[:, None]
    torch.testing.assert_close(found.ys, expected, rtol=1e-6, atol=1e-6)


def test_nested_and_complex_states() -> None:
    y0 = {"a": torch.rand(3, 2, dtype=torch.complex128), "b": torch.rand(3, dtype=torch.complex128)}

    def f(t: Tensor, y: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"a": 1j * y["a"], "b": t.reshape(-1) * y["b"]}

    t = torch.tensor([[0.0, 1.0], [0.0, 2.0], [1.0, 0.0]], dtype=DOUBLE)
    found = odekit.solve(f, y0, t, batch="rows")
    torch.testing.assert_close(found.y1["a"], torch.exp(1j * (t[:, 1:] - t[:, :1])) * y0["a"], rtol=1e-6, atol=1e-6)
    growth = torch.exp((t[:, 1] ** 2 - t[:, 0] ** 2) / 2)
    torch.testing.assert_close(found.y1["b"], growth * y0["b"], rtol=1e-6, atol=1e-6)


def test_float32_states_make_no_float64_tensor() -> None:
    seen = set()

    def f(t: Tensor, y: Tensor) -> Tensor:
        seen.update([t.dtype, y.dtype])
        return -y * t

    found = odekit.solve(f, torch.rand(3, 2), [[0.0, 0.7], [0.1, 0.2], [0.3, 0.0]], batch="rows")
    assert seen == {torch.float32}
    assert found.ys.dtype == torch.float32


def test_f_may_be_written_for_times_of_shape_b() -> None:
    def f(t: Tensor, y: Tensor) -> Tensor:
        assert t.ndim == 1
        return -t[:, None] * y

    t = torch.tensor([[0.0, 1.0], [0.0, 2.0]], dtype=DOUBLE)
    found = odekit.solve(f, torch.ones(2, 3, dtype=DOUBLE), t, batch="rows")
    expected = torch.exp(-(t[:, 1:] ** 2) / 2).expand(2, 3)
    torch.testing.assert_close(found.y1, expected, rtol=1e-6, atol=1e-6)


def test_f_is_never_called_outside_a_rows_span() -> None:
    low, high = SPANS[:, [0, -1]].amin(1), SPANS[:, [0, -1]].amax(1)

    def f(t: Tensor, y: Tensor) -> Tensor:
        if len(y) == B:
            assert bool(((t.reshape(-1) >= low) & (t.reshape(-1) <= high)).all()) or t.unique().numel() == 1
        return torch.sin(t) - y + 0 * MU[: len(y), None]

    odekit.solve(lambda t, y: f(t, y) + 0 * MU[:, None], Y0, SPANS, batch="rows")


def test_rows_that_are_done_are_not_evaluated() -> None:
    evaluated = []

    def f(t: Tensor, y: Tensor) -> Tensor:
        evaluated.append(len(y))
        return torch.cos(20 * t) - y

    t = torch.tensor([[0.0, 0.1]] * 63 + [[0.0, 50.0]], dtype=DOUBLE)
    found = odekit.solve(f, torch.zeros(64, 1, dtype=DOUBLE), t, batch="rows")
    assert found.stats.nfe == len(evaluated)
    assert sum(evaluated) < 64 * 70 + found.stats.nfe


def test_a_bad_row_ends_alone() -> None:
    def f(t: Tensor, y: Tensor) -> Tensor:
        return y**2

    y0 = torch.tensor([[0.5], [4.0], [math.nan], [0.1]], dtype=DOUBLE)  # the second is infinite at t = 0.25
    found = odekit.solve(f, y0, [0.0, 0.1, 1.0], batch="rows", throw=False)
    assert [status.ok for status in found.status] == [True, False, False, True]
    assert found.status[2] is odekit.Status.NON_FINITE
    assert found.status.failed == [1, 2]
    assert not found.status.ok
    torch.testing.assert_close(
        found.ys[:, [0, 3]], (y0 / (1 - torch.tensor([[[0.0]], [[0.1]], [[1.0]]]) * y0))[:, [0, 3]]
    )
    assert found.ys[1, 1].isfinite()
    assert found.ys[2, 1].isnan()
    assert abs(float(found.t1[1]) - 0.25) < 1e-3


def test_an_error_names_the_rows_and_keeps_the_answer() -> None:
    y0 = torch.tensor([[0.5], [4.0], [0.1]], dtype=DOUBLE)
    with pytest.raises(SolveError, match=r"1 of 3 rows: row 1 at t = 0\.25") as caught:
        odekit.solve(lambda t, y: y**2, y0, [0.0, 1.0], batch="rows")
    assert caught.value.solution is not None
    assert caught.value.solution.ys[1, 0].isfinite()


def test_max_steps_is_counted_by_row() -> None:
    t = torch.tensor([[0.0, 0.01], [0.0, 100.0]], dtype=DOUBLE)
    found = odekit.solve(lambda t, y: torch.cos(t) - y, Y0[:2], t, batch="rows", max_steps=20, throw=False)
    assert list(found.status) == [odekit.Status.SUCCESS, odekit.Status.MAX_STEPS]
    assert int(found.stats.steps[1]) == 20


def test_fixed_steps_end_a_row_that_breaks() -> None:
    y0 = torch.tensor([[0.5], [1e200]], dtype=DOUBLE)
    found = odekit.solve(lambda t, y: y**2, y0, [0.0, 1.0], batch="rows", solver="rk4", step_size=0.1, throw=False)
    assert list(found.status) == [odekit.Status.SUCCESS, odekit.Status.NON_FINITE]
    assert int(found.stats.steps[1]) == 1


def test_rows_at_rest_and_repeated_times() -> None:
    t = torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 1.0]], dtype=DOUBLE)
    found = odekit.solve(lambda t, y: -y, Y0[:2], t, batch="rows")
    torch.testing.assert_close(found.ys[0], Y0[0].expand(3, 2))
    torch.testing.assert_close(found.ys[1, 1], found.ys[1, 2])


def test_tolerances_and_norms_by_row() -> None:
    rtol = torch.tensor([1e-3, 1e-9], dtype=DOUBLE)[:, None]
    y0 = Y0[2:3].expand(2, 2)
    found = odekit.solve(vdp, y0, [0.0, 3.0], args=(MU[2:3].expand(2),), batch="rows", rtol=rtol, atol=1e-9, norm="max")
    assert int(found.stats.steps[1]) > 2 * int(found.stats.steps[0])
    own = odekit.solve(
        vdp,
        y0,
        [0.0, 3.0],
        args=(MU[2:3].expand(2),),
        batch="rows",
        rtol=rtol,
        atol=1e-9,
        norm=lambda x: x.abs().amax(),
    )
    assert own.stats.steps.equal(found.stats.steps)


def test_what_cannot_be_solved_by_rows_is_an_error() -> None:
    with pytest.raises(DynamicsError, match="no rows interact"):
        odekit.solve(lambda t, y: y - y.mean(0), Y0, [0.0, 1.0], batch="rows")
    with pytest.raises(InputError, match="batch="):
        odekit.solve(lambda t, y: -y, Y0, [0.0, 1.0], batch="row")
    with pytest.raises(InputError, match="first axis"):
        odekit.solve(lambda t, y: -y, torch.tensor(1.0), [0.0, 1.0], batch="rows")
    with pytest.raises(InputError, match="expected"):
        odekit.solve(lambda t, y: -y, Y0, torch.zeros(3, 2), batch="rows")
    with pytest.raises(InputError, match=r"t\[1\]"):
        odekit.solve(lambda t, y: -y, Y0[:2], [[0.0, 1.0, 2.0], [0.0, 2.0, 1.0]], batch="rows")
