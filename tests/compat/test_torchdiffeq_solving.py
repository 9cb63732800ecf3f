"""odeint of the torchdiffeq interface: methods, options, times, tuples, callbacks, norms, errors."""

from __future__ import annotations

import contextlib
import importlib
import math
import sys
import warnings
from typing import Any
from unittest import mock

import pytest
import torch
from problems import DOUBLE, Counted, decay
from torch import Tensor

import odekit
from odekit.compat import torchdiffeq
from odekit.compat.methods import Adaptive, Fixed
from odekit.errors import GradientError, SolveError

NAMES = {
    "dopri8", "dopri5", "tsit5", "bosh3", "fehlberg2", "adaptive_heun", "euler", "midpoint", "heun2", "heun3", "rk4",
    "explicit_adams", "implicit_adams", "fixed_adams", "implicit_euler", "implicit_midpoint", "trapezoid", "radauIIA3",
    "gl4", "radauIIA5", "gl6", "sdirk2", "trbdf2", "scipy_solver",
}  # fmt: skip
ADAPTIVE = [name for name, method in torchdiffeq.SOLVERS.items() if isinstance(method, Adaptive)]
FIXED = [name for name, method in torchdiffeq.SOLVERS.items() if isinstance(method, Fixed)]
UNIT = torch.tensor([0.0, 1.0], dtype=DOUBLE)
Y0 = torch.tensor([1.0, -2.0], dtype=DOUBLE)


def driven(t: Tensor, y: Tensor) -> Tensor:
    """Solved by y0 exp(sin t)."""
    return torch.cos(t) * y


def driven_exact(t: Tensor) -> Tensor:
    return Y0 * torch.exp(torch.sin(t) - torch.sin(t[0]))[:, None]


def test_the_methods_are_those_of_torchdiffeq() -> None:
    assert torchdiffeq.SOLVERS.keys() == NAMES


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("method", [*ADAPTIVE, "scipy_solver"])
def test_adaptive_methods_and_scipy_solve(method: str, backwards: bool) -> None:
    t = torch.linspace(0, 1.5, 4, dtype=DOUBLE)
    t = t.flip(0) if backwards else t
    loose = method in ("adaptive_heun", "fehlberg2")
    rtol = 1e-5 if loose else 1e-7
    y = torchdiffeq.odeint(driven, Y0, t, rtol=rtol, atol=1e-9, method=method)
    assert y.shape == (4, 2)
    torch.testing.assert_close(y, driven_exact(t), rtol=100 * rtol, atol=1e-5)


@pytest.mark.parametrize("method", FIXED)
def test_fixed_methods_converge_on_a_field_that_depends_on_time(method: str) -> None:
    t = torch.tensor([0.0, 0.37, 1.0], dtype=DOUBLE)
    errors = [
        (torchdiffeq.odeint(driven, Y0, t, method=method, options={"step_size": h}) - driven_exact(t)).abs().max()
        for h in (0.1, 0.05)
    ]
    assert errors[1] < max(0.7 * errors[0], 1e-9)
    assert errors[1] < 0.1


def test_without_a_step_size_the_output_times_are_the_grid() -> None:
    f = Counted(decay)
    t = torch.tensor([0.0, 0.1, 0.3, 0.6], dtype=DOUBLE)
    y = torchdiffeq.odeint(f, Y0, t, method="euler")
    assert f.times == [0.0, 0.1, 0.3]
    torch.testing.assert_close(y, Y0 * torch.tensor([1, 0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7], dtype=DOUBLE)[:, None])


def test_a_step_size_leaves_what_is_left_to_the_last_step() -> None:
    f = Counted(decay)
    torchdiffeq.odeint(f, Y0, UNIT.flip(0), method="euler", options={"step_size": 0.4})
    assert f.times == pytest.approx([1.0, 0.6, 0.2])


def test_a_grid_of_the_callers() -> None:
    seen: list[Any] = []

    def construct(func: Any, y0: Any, t: Tensor) -> Tensor:
        seen.append((func, y0, t))
        return torch.tensor([0.0, 0.25, 1.0])

    f = Counted(decay)
    torchdiffeq.odeint(f, Y0, UNIT, method="euler", options={"grid_constructor": construct})
    assert f.times == [0.0, 0.25]
    assert seen[0][0] is f
    assert torch.equal(seen[0][2], UNIT)


@pytest.mark.parametrize("grid", [[0.0, 0.5], [0.1, 1.0], [0.0, 0.7, 0.3, 1.0], []])
def test_a_grid_that_does_not_fit_is_an_error(grid: list[float]) -> None:
    options = {"grid_constructor": lambda func, y0, t: torch.tensor(grid)}
    with pytest.raises(ValueError, match="monotone grid"):
        torchdiffeq.odeint(decay, Y0, UNIT, method="euler", options=options)


@pytest.mark.parametrize("method", FIXED)
def test_perturb_keeps_f_inside_of_steps(method: str) -> None:
    f = Counted(decay)
    torchdiffeq.odeint(f, Y0, UNIT, method=method, options={"step_size": 0.5, "perturb": True})
    assert not {0.0, 0.5, 1.0} & set(f.times)
    assert all(0 < t < 1 for t in f.times)


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun2", "heun3", "rk4"])
def test_between_grid_points_lines_are_drawn_or_the_cubics_of_torchdiffeq(method: str) -> None:
    t = torch.tensor([0.0, 0.5, 1.0], dtype=DOUBLE)
    for options in ({}, {"interp": "linear"}):
        f = Counted(driven)
        y = torchdiffeq.odeint(f, Y0, t, method=method, options={"step_size": 1, **options})
        torch.testing.assert_close(y[1], (y[0] + y[2]) / 2)
        assert f.calls <= 4
    y = torchdiffeq.odeint(driven, Y0, t, method=method, options={"step_size": 1, "interp": "cubic"})
    slopes = [torch.cos(time) * state for time, state in zip(t[[0, 2]], y[[0, 2]], strict=True)]
    torch.testing.assert_close(y[1], (y[0] + y[2]) / 2 + (slopes[0] - slopes[1]) / 8)


@pytest.mark.parametrize("method", ["dopri5", "dopri8", "rk4", "gl6", "implicit_adams"])
def test_f_is_not_asked_outside_of_the_span(method: str) -> None:
    f = Counted(driven)
    torchdiffeq.odeint(f, Y0, UNIT, method=method)
    assert min(f.times) >= 0
    assert max(f.times) <= 1


def test_one_time_gives_the_initial_state() -> None:
    for method in torchdiffeq.SOLVERS:
        assert torch.equal(torchdiffeq.odeint(decay, Y0, UNIT[:1], method=method), Y0[None])


def test_tuples_with_tolerances_of_their_own() -> None:
    def f(t: Tensor, y: tuple[Tensor, Tensor]) -> list[Tensor]:
        return [-y[0], y[0].sum(1)]  # a list, and [B] for [B, 1]: both are fine with torchdiffeq

    y0 = torch.ones(3, 2, dtype=DOUBLE), torch.zeros(3, 1, dtype=DOUBLE)
    z, integral = torchdiffeq.odeint(f, y0, UNIT, rtol=[1e-6, 1e20], atol=[1e-8, 1e20])
    assert (z.shape, integral.shape) == ((2, 3, 2), (2, 3, 1))
    torch.testing.assert_close(z[1], y0[0] * math.exp(-1), rtol=1e-5, atol=0)
    torch.testing.assert_close(integral[1], 2 * (1 - math.exp(-1)) + y0[1], rtol=1e-4, atol=0)


def test_a_tuple_of_several_dtypes_is_solved_in_the_widest() -> None:
    y0 = Y0, torch.ones(1)
    y = torchdiffeq.odeint(lambda t, y: (-y[0], -y[1]), y0, UNIT)
    assert [part.dtype for part in y] == [DOUBLE, DOUBLE]


def test_dy_in_another_dtype_is_cast() -> None:
    y = torchdiffeq.odeint(lambda t, y: -y.double(), Y0.float(), UNIT)
    assert y.dtype == torch.float32


class Watched(torch.nn.Module):
    """Decay, and a note of every callback."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[tuple[str, float, float]] = []

    def forward(self, t: Tensor, y: Any) -> Any:
        return -20 * y * torch.sin(7 * t)

    def note(self, name: str, t0: Tensor, dt: Tensor) -> None:
        assert t0.ndim == dt.ndim == 0
        self.notes.append((name, float(t0), float(dt)))

    def callback_step(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
        assert y0.shape == (2,)
        self.note("step", t0, dt)

    def callback_accept_step(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
        self.note("accept", t0, dt)

    def callback_reject_step(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
        self.note("reject", t0, dt)


@pytest.mark.parametrize("backwards", [False, True])
def test_callbacks_are_called_with_positive_steps(backwards: bool) -> None:
    f = Watched()
    torchdiffeq.odeint(f, Y0, UNIT.flip(0) if backwards else UNIT, options={"first_step": 1.0})
    names = [note[0] for note in f.notes]
    assert names[::2] == ["step"] * (len(names) // 2)
    assert {"accept", "reject"} == set(names[1::2])
    accepted = [note for note in f.notes if note[0] == "accept"]
    assert sum(dt for _, _, dt in accepted) == pytest.approx(1)
    assert all(dt > 0 for _, _, dt in accepted)
    assert accepted[0][1] == (1.0 if backwards else 0.0)


def test_a_callback_may_change_the_state_in_place() -> None:
    class Kicked(torch.nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return torch.zeros_like(y)

        def callback_step(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
            y0.add_(1)

    y = torchdiffeq.odeint(Kicked(), Y0.clone(), UNIT, method="euler", options={"step_size": 0.25})
    torch.testing.assert_close(y[1], Y0 + 4)


def test_callbacks_that_a_method_does_not_support_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="'rk4' does not support callbacks"):
        torchdiffeq.odeint(Watched(), Y0, UNIT, method="rk4")


def test_options_that_a_method_does_not_know_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="Unexpected arguments {'step_size': 0.1}"):
        torchdiffeq.odeint(decay, Y0, UNIT, options={"step_size": 0.1})


def test_a_norm_sees_the_state_as_the_caller_knows_it() -> None:
    seen = []

    def norm(state: tuple[Tensor, ...]) -> Tensor:
        seen.append([tuple(part.shape) for part in state])
        return state[0].abs().max()

    y0 = torch.tensor(1.0), torch.ones(2, 2)
    torchdiffeq.odeint(lambda t, y: (-y[0], y[1]), y0, UNIT, options={"norm": norm})
    assert seen[0] == [(), (2, 2)]


def test_min_step_is_taken_whatever_its_error_and_max_step_is_kept() -> None:
    f = Counted(lambda t, y: -y * torch.cos(40 * t))
    options = {"min_step": 0.25, "max_step": 0.25}
    torchdiffeq.odeint(f, Y0, UNIT, options=options)
    assert f.calls <= 2 + 4 * 6


def test_jump_t_saves_steps() -> None:
    def kinked(t: Tensor, y: Tensor) -> Tensor:
        return -y if t < 0.5 else y

    plain, told = Counted(kinked), Counted(kinked)
    torchdiffeq.odeint(plain, Y0, UNIT)
    y = torchdiffeq.odeint(told, Y0, UNIT, options={"jump_t": torch.tensor([0.5])})
    assert told.calls < plain.calls / 2
    torch.testing.assert_close(y[1], Y0)


def test_step_t_is_stepped_on() -> None:
    f = Watched()
    torchdiffeq.odeint(f, Y0, UNIT, options={"step_t": torch.tensor([0.5])})
    assert 0.5 in {t0 for _, t0, _ in f.notes}


def test_max_num_steps_counts_for_each_output_interval_and_failure_is_an_assertion() -> None:
    with pytest.raises(AssertionError, match="max_num_steps exceeded") as caught:
        torchdiffeq.odeint(decay, Y0, UNIT, options={"max_num_steps": 2})
    assert isinstance(caught.value, SolveError)
    assert caught.value.status is odekit.Status.MAX_STEPS
    torchdiffeq.odeint(decay, Y0, torch.linspace(0, 1, 20), options={"max_num_steps": 2})


def test_a_nan_is_an_assertion() -> None:
    with pytest.raises(AssertionError, match="non-finite"):
        torchdiffeq.odeint(lambda t, y: y / (t - t), Y0, UNIT)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"t": [0.0, 1.0]}, AssertionError, "expected a tensor"),
        ({"t": torch.tensor([0, 1])}, TypeError, "floating-point"),
        ({"t": torch.tensor([[0.0, 1.0]])}, AssertionError, "one-dimensional"),
        ({"t": torch.tensor([0.0, 1.0, 0.5])}, AssertionError, "strictly increasing or decreasing"),
        ({"y0": torch.tensor([1, 2])}, ValueError, "floating-point"),
        ({"method": "dopri55"}, ValueError, "Did you mean 'dopri5'"),
        ({"method": "euler", "options": {"interp": "quartic"}}, ValueError, "'linear' or 'cubic'"),
        ({"method": "euler", "options": {"step_size": 0.1, "grid_constructor": 1}}, ValueError, "both given"),
        ({"rtol": torch.tensor(1e-3, requires_grad=True)}, AssertionError, "gradient"),
        ({"event_fn": decay, "t": torch.tensor([0.0, 1.0, 2.0])}, ValueError, "3 entries"),
        ({"event_fn": decay, "method": "euler"}, AssertionError, "step_size"),
        ({"event_fn": decay, "method": "scipy_solver"}, ValueError, "no events"),
        ({"t": UNIT[:0]}, ValueError, "empty"),
        ({"method": "euler", "options": {"step_size": -0.1}}, ValueError, "positive"),
        ({"method": "euler", "options": {"step_size": 0}}, ValueError, "positive"),
        ({"options": {"step_t": [0.5], "jump_t": torch.tensor([0.5])}}, ValueError, "twice"),
        ({"y0": (Y0, Y0), "rtol": (1e-3,)}, AssertionError, "rtol"),
    ],
)
def test_mistakes_are_told(change: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        torchdiffeq.odeint(**{"func": decay, "y0": Y0, "t": UNIT, **change})


def adams(method: str, **options: Any) -> tuple[Tensor, int]:
    f = Counted(driven)
    return torchdiffeq.odeint(f, Y0, UNIT, method=method, options={"step_size": 0.05, **options}), f.calls


def test_the_adams_orders() -> None:
    calls = [adams("explicit_adams", max_order=order)[1] for order in (4, 6, 12)]
    assert calls[0] < calls[1] < calls[2]  # the higher the order, the more a start costs
    with pytest.raises(AssertionError, match="at most 12"):
        adams("explicit_adams", max_order=13)


def test_adams_methods_below_order_four_are_rk4() -> None:
    with pytest.warns(UserWarning, match="reduces to `rk4`"):
        y, _ = adams("implicit_adams", max_order=3)
    torch.testing.assert_close(y, torchdiffeq.odeint(driven, Y0, UNIT, method="rk4", options={"step_size": 0.05}))


def test_the_corrector_may_be_left_out() -> None:
    explicit = adams("explicit_adams")
    assert torch.equal(adams("implicit_adams", implicit=False)[0], explicit[0])
    assert adams("implicit_adams")[1] > explicit[1]


def test_scipy_has_no_gradient_and_says_so() -> None:
    y0 = Y0.clone().requires_grad_()
    y = torchdiffeq.odeint(decay, y0, UNIT, method="scipy_solver", options={"solver": "RK45"})
    with pytest.raises(GradientError, match="odeint_adjoint"):
        y.sum().backward()


@pytest.mark.parametrize(("least", "reached"), [(1e-6, True), (0.5, False)])
def test_scipy_keeps_min_step_or_gives_up_and_says_so(least: float, reached: bool) -> None:
    f = Counted(lambda t, y: 5 * torch.stack([y[1], -y[0]]))
    t = torch.linspace(0, 3, 4, dtype=DOUBLE)
    with contextlib.nullcontext() if reached else pytest.warns(UserWarning, match="1 of 4 times.*min_step"):
        y = torchdiffeq.odeint(f, Y0, t, method="scipy_solver", options={"min_step": least})
    assert y.shape == (4, 2)
    assert torch.equal(y[0], Y0)
    assert bool(y.isfinite().all()) if reached else bool(y[1:].isnan().all())
    assert (f.calls > 50) is reached


def test_scipy_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "scipy.integrate", None)
    with pytest.raises(ValueError, match="pip install scipy"):
        torchdiffeq.odeint(decay, Y0, UNIT, method="scipy_solver")


def test_what_programs_import_from_the_inside_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchdiffeq, "_impl", torchdiffeq._impl)
    others = {name: module for name, module in sys.modules.items() if name.split(".")[0] != "torchdiffeq"}
    with mock.patch.dict(sys.modules, {**others, "torchdiffeq": torchdiffeq}, clear=True):
        inside = importlib.import_module("torchdiffeq._impl")
        solves = importlib.import_module("torchdiffeq._impl.odeint")
        adjoint = importlib.import_module("torchdiffeq._impl.adjoint")
        norms = importlib.import_module("torchdiffeq._impl.misc")
    assert inside.odeint is solves.odeint is torchdiffeq.odeint
    assert inside.odeint_adjoint is adjoint.odeint_adjoint is torchdiffeq.odeint_adjoint
    assert (solves.SOLVERS, solves.odeint_event) == (torchdiffeq.SOLVERS, torchdiffeq.odeint_event)
    assert len(list(adjoint.find_parameters(torch.nn.Linear(1, 1)))) == 2
    assert float(norms._rms_norm(Y0)) == float(norms._mixed_norm((Y0, 0 * Y0))) == pytest.approx(math.sqrt(2.5))


def test_nothing_is_warned_of_without_a_reason() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torchdiffeq.odeint(decay, Y0, UNIT, method="rk4", options={"norm": None, "step_size": torch.tensor(0.5)})
