"""What users type wrong: each message says what came, what was expected, and what to type instead."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import DOUBLE, GRADIENTS
from torch import Tensor

from odekit import solve
from odekit.core.implicit_runge_kutta import DiagonallyImplicitRungeKutta
from odekit.core.nonlinear import Newton
from odekit.errors import DynamicsError, InputError, NameNotFound, OdekitError, OptionError
from odekit.gradients import Adjoint
from odekit.registry import catalog

ONE = torch.ones(2, dtype=DOUBLE)
SPAN = [0.0, 1.0]
NESTED = {"a": torch.ones(2, 3), "b": torch.ones(2)}


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -y


def refused(error: type[Exception], *words: str, f: Any = decay, y0: Any = ONE, t: Any = SPAN, **options: Any) -> None:
    """Solving raises this error, and its message has all these words."""
    with pytest.raises(error) as caught:
        solve(f, y0, t, **options)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in {str(caught.value)!r}"


# What f returns


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("solver", ["dopri5", "kvaerno3"])
@pytest.mark.parametrize(
    ("f", "words"),
    [
        (lambda t, y: y[:1], ("what f returned has shape (1,)", "y has shape (2,)", "so must dy/dt")),
        (lambda t, y: y.sum(), ("has shape ()", "y has shape (2,)")),
        (lambda t, y: None, ("f returned None", "`return` missing")),
        (lambda t, y: 0.0, ("what f returned is a float", "a tensor was expected")),
        (lambda t, y: (y,), ("what f returned is a tuple", "a tensor was expected")),
        (lambda t, y: y.float(), ("torch.float32", "torch.float64", "dtype of y")),
        (lambda t, y: torch.complex(y, y), ("torch.complex128", "torch.float64")),
        (lambda t, y: y.to("meta"), ("on meta", "y is on cpu", "move f's parameters or y0")),
    ],
    ids=["shape", "0-d", "None", "float", "tuple", "dtype", "complex", "device"],
)
def test_what_f_returns_must_be_like_y(f: Any, words: tuple[str, ...], solver: str, gradient: str) -> None:
    refused(DynamicsError, *words, f=f, solver=solver, gradient=gradient)


@pytest.mark.parametrize(
    ("f", "words"),
    [
        (lambda t, y: y["a"], ("what f returned is nested as *", "y is nested as {'a': *, 'b': *}")),
        (lambda t, y: (y["a"], y["b"]), ("(*, *)", "{'a': *, 'b': *}")),
        (lambda t, y: {"a": y["a"], "c": y["b"]}, ("{'a': *, 'c': *}", "{'a': *, 'b': *}")),
        (lambda t, y: {"a": y["a"], "b": 1.0}, ("what f returned['b'] is a float", "a tensor of shape (2,)")),
        (lambda t, y: {"a": y["b"], "b": y["b"]}, ("what f returned['a'] has shape (2,)", "y['a'] has shape (2, 3)")),
        (lambda t, y: {"a": y["a"], "b": y["b"].double()}, ("what f returned['b'] is torch.float64", "torch.float32")),
    ],
    ids=["tensor", "tuple", "other key", "float", "shape", "dtype"],
)
def test_what_f_returns_must_be_nested_like_y(f: Any, words: tuple[str, ...]) -> None:
    refused(DynamicsError, *words, f=f, y0=NESTED)


class Mine(Exception):
    pass


def raising(error: Exception) -> Callable[..., Any]:
    def f(t: Tensor, y: Any) -> Any:
        raise error

    return f


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("solver", ["rk4", "dopri5", "kvaerno3"])
@pytest.mark.parametrize("error", [Mine("mine"), KeyError("key"), RuntimeError("mat1 and mat2")], ids=repr)
def test_an_exception_in_f_comes_through_as_it_is_with_a_note(error: Exception, solver: str, gradient: str) -> None:
    error.__notes__ = []
    with pytest.raises(type(error)) as caught:
        solve(raising(error), ONE, SPAN, solver=solver, gradient=gradient, step_size=0.1)
    assert caught.value is error
    (note,) = error.__notes__
    assert note.startswith("raised by f(t, y) with t = ")
    assert "y of shape (2,), torch.float64 on cpu" in note


def test_f_with_too_few_arguments_says_so() -> None:
    refused(TypeError, "positional argument", f=lambda y: -y)
    refused(InputError, "f is a Tensor; expected a callable f(t, y, *args)", f=ONE)


# y0


@pytest.mark.parametrize(
    ("y0", "words"),
    [
        (1.0, ("y0 is a float (1.0); expected a tensor, e.g. torch.as_tensor(y0)",)),
        (3, ("y0 is a int (3)",)),
        ([1.0, 2.0], ("y0[0] is a float (1.0)", "torch.as_tensor(y0[0])")),
        (None, ("y0 is None, without a tensor in it",)),
        ([], ("y0 is [], without a tensor in it; expected a tensor or a nested tuple, list or dict",)),
        (torch.arange(3), ("y0 has dtype torch.int64", "y0.float() or .double()")),
        (torch.ones(2, dtype=torch.bool), ("y0 has dtype torch.bool",)),
        ({"a": ONE, "b": torch.arange(2)}, ("y0['b'] has dtype torch.int64",)),
        ((ONE, ONE.float()), ("y0[1] is torch.float32, y0[0] is torch.float64; give all parts of y0 one dtype",)),
        ((ONE, ONE.to("meta")), ("y0[1] is on the meta device",)),
        (ONE.to("meta"), ("y0 is on the meta device, which holds no numbers",)),
    ],
)
def test_y0_must_be_floating_point_tensors_of_one_kind(y0: Any, words: tuple[str, ...]) -> None:
    refused(InputError, *words, y0=y0)


# t


@pytest.mark.parametrize(
    ("t", "words"),
    [
        (1.0, ("t is a float; expected output times [T], such as t=[0.0, 1.0], the first being t0",)),
        (None, ("t is a NoneType",)),
        ("01", ("t is a str",)),
        (["0", "1"], ("t=['0', '1']: expected numbers, such as",)),
        ([0.0, None], ("expected numbers",)),
        ([0.0, [1.0, 2.0]], ("expected numbers",)),
        ([False, True], ("expected numbers",)),
        ([0.0, 1j], ("expected numbers",)),
        ([], ("t has shape (0,); expected [T] with T >= 1",)),
        ([[0.0, 1.0]], ("t has shape (1, 2); expected [T]",)),
        (torch.tensor(1.0), ("t has shape ()",)),
        (torch.tensor([False, True]), ("t has dtype torch.bool; times are real numbers",)),
        (torch.tensor([0.0, 1j]), ("t has dtype torch.complex64",)),
        (torch.linspace(0, 1, 3, device="meta"), ("t is on the meta device",)),
        ([torch.tensor(0.0), torch.tensor(1.0)], ("a sequence with tensors in it", "t=torch.stack([...])")),
        ([0.0, math.nan], ("t[1] is nan; times must be finite",)),
        ([0.0, math.inf], ("t[1] is inf",)),
        ([0.0, 1.0, 0.5], ("t is not monotone: t[1] = 1 is followed by t[2] = 0.5", "sort it")),
        ([1.0, 0.0, 0.5, -1.0], ("t[1] = 0 is followed by t[2] = 0.5",)),
        ([0.0, 1.0, 0.0], ("t is not monotone",)),
    ],
)
def test_t_must_be_monotone_numbers(t: Any, words: tuple[str, ...]) -> None:
    refused(InputError, *words, t=t)


# Options


def keys(value: Any) -> str:
    return ",".join(value) if isinstance(value, dict) else ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rtoll": 1e-3}, ("solve() has no option 'rtoll'. Did you mean 'rtol'?", "Known: args, atol, ")),
        ({"method": "rk4"}, ("solve() has no option 'method'.", "solver")),
        ({"step_size": 0.1, "control": "pi"}, ("either control= or step_size=, not both", "control=FixedStep(h)")),
        ({"solver": "euler"}, ("solver 'euler' has no error estimate", "give step_size=...", "'dopri5'")),
        ({"control": "PIDD"}, ("control='PIDD' is not known.", "Known: i, pi, pid")),
        ({"control": 0.1}, ("control is a float; expected one of i, pi, pid, predictive or a StepControl",)),
        ({"step_size": 0.0}, ("step_size=0.0: expected a positive, finite number",)),
        ({"step_size": -0.1}, ("step_size=-0.1",)),
        ({"step_size": math.nan}, ("step_size=nan",)),
        ({"step_size": "0.1"}, ("step_size='0.1'",)),
        ({"step_size": True}, ("step_size=True",)),
        ({"rtol": -1e-3}, ("rtol=-0.001: expected a finite number >= 0, such as 1e-6",)),
        ({"atol": math.nan}, ("atol=nan: expected a finite number >= 0",)),
        ({"rtol": math.inf}, ("rtol=inf",)),
        ({"rtol": "1e-3"}, ("rtol='1e-3'",)),
        ({"rtol": True}, ("rtol=True",)),
        ({"rtol": 0.0, "atol": 0}, ("rtol and atol are both 0, which no step can meet", "rtol=1e-6")),
        ({"rtol": 0.0, "atol": torch.tensor([1e-3, 0.0])}, ("rtol and atol are both 0",)),
        ({"rtol": torch.tensor([1.0, -1.0])}, ("rtol has entries that are negative",)),
        ({"atol": torch.tensor([1.0, math.nan])}, ("atol has entries that are negative, NaN",)),
        ({"atol": torch.ones(3)}, ("atol has shape (3,), which does not broadcast to y0's (2,)",)),
        ({"norm": "rmss"}, ("norm='rmss' is not known. Did you mean 'rms'?", "max")),
        ({"args": ONE}, ("args is a Tensor; expected a tuple: write args=(x,) for one argument",)),
        ({"args": [1.0]}, ("args is a list",)),
        ({"max_steps": 0}, ("max_steps=0: expected an integer >= 1",)),
        ({"max_steps": 10.0}, ("max_steps=10.0",)),
        ({"solver": 5}, ("solver=5: expected a registered name (see `odekit list solvers`)", "ODESolver")),
        ({"solver": Adjoint}, ("expected a registered name",)),
        ({"gradient": decay}, ("see `odekit list gradients`", "GradientMethod")),
    ],
)
def test_options_that_are_unknown_or_cannot_work(options: dict[str, Any], words: tuple[str, ...]) -> None:
    refused(InputError, *words, **options)


def test_an_unknown_option_is_also_a_type_error_as_in_any_python_call() -> None:
    refused(TypeError, "no option 'tol'", tol=1e-3)
    assert issubclass(OptionError, OdekitError)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"solver": "dopri55"}, ("no solver is called 'dopri55'. Did you mean 'dopri5'?", "Known: ", "kvaerno3")),
        ({"solver": "odekit:dopri"}, ("odekit:dopri5",)),
        ({"gradient": "adjiont"}, ("no gradient is called 'adjiont'. Did you mean 'adjoint'?", "checkpointed")),
        ({"gradient": Adjoint(solver="dopri")}, ("no solver is called 'dopri'",)),
    ],
)
def test_unknown_names_get_the_nearest_known_one(options: dict[str, Any], words: tuple[str, ...]) -> None:
    refused(NameNotFound, *words, **options)


def test_a_nested_tolerance_must_be_nested_like_y0() -> None:
    def f(t: Tensor, y: Any) -> Any:
        return y

    refused(InputError, "rtol is nested as (*, *); give one number, or the nesting of y0",
            f=f, y0=NESTED, rtol=(1.0, 1.0))  # fmt: skip
    refused(InputError, "atol['a'] has shape (4,)", f=f, y0=NESTED, atol={"a": torch.ones(4), "b": 1.0})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Adjoint(norm="semi"), "adjoint norm 'semi' is not known. Did you mean 'seminorm'?"),
        (lambda: Newton(max_iterations=0), "max_iterations=0: expected an integer >= 1"),
        (lambda: Newton(fraction=1.5), "fraction=1.5: expected a number between 0 and 1"),
        (
            lambda: catalog().get("solver", "trapezoid")(linear="sparse"),
            "linear='sparse' is not known. Known: auto, dense, gmres, rows.",
        ),
    ],
)
def test_settings_of_the_parts(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert words in str(caught.value)


def test_the_backward_solver_needs_a_step_size_too() -> None:
    refused(OptionError, "solver 'euler' has no error estimate", gradient=Adjoint(solver="euler"))
    assert issubclass(catalog().get("solver", "trapezoid"), DiagonallyImplicitRungeKutta)


@pytest.mark.parametrize("option", [{"rtol": -1.0}, {"rtol": 0.0, "atol": 0.0}, {"atol": math.nan}], ids=repr)
def test_the_backward_tolerances_are_checked_too(option: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(option))):
        solve(decay, ONE.clone().requires_grad_(), SPAN, gradient=Adjoint(**option)).y1.sum().backward()
