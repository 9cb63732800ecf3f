"""What a gradient method keeps of every step, against the formula that it declares."""

from __future__ import annotations

import gc
from typing import Any

import attrs
import torch
from torch import Tensor

from odekit.solving import solve
from odekit.testing.checks import Checks, Measured
from odekit.testing.gradient.values import GradientSubject
from odekit.testing.probe import Ledger
from odekit.testing.problems import DOUBLE

CHECKS = Checks()

_SHAPE = (16, 8)
_STATE = 16 * 8 * 8
"""Bytes of one state."""
_STAGES = 4
"""Of rk4, with which memory is measured."""
_COUNTS = (80, 240)


@attrs.frozen
class PerStep:
    """What a formula says about one step.

    Attributes:
        states: how many states it may keep; None for activations, as many as there are.
        declared: the words for it.
    """

    states: float | None
    declared: str


def per_step(formula: str) -> PerStep | None:
    """What ``GradientMethod.memory`` says about a step; None if it is no formula, so that nothing is declared.

    Of its terms only those count that have ``steps`` as a factor.
    """
    terms = _terms(formula)
    if len(terms) == 1 and "×" not in formula:
        return None
    growing = [term for term in terms if "steps" in term.replace("one step", "")]
    if not growing:
        return PerStep(0.0, "nothing of a step")
    if any("activations" in term for term in growing):
        return PerStep(None, "activations of every step")
    states = sum(1 + (_STAGES if "stages" in term else 0) for term in growing)
    return PerStep(2.0 * states, f"no more than {2 * states} states a step")


def _terms(formula: str) -> list[str]:
    """The terms of a sum, where parentheses hold theirs together."""
    terms, depth = [""], 0
    for character in formula:
        depth += (character == "(") - (character == ")")
        if character == "+" and depth == 0:
            terms.append("")
        else:
            terms[-1] += character
    return [term.strip() for term in terms]


@CHECKS.add
def memory(subject: GradientSubject) -> Measured:
    """The peak of forward and backward grows with the number of steps as the declared formula says."""
    _peak(subject, _COUNTS[0])  # what is made once and stays
    peaks = [_peak(subject, count) for count in _COUNTS]
    few, many = _COUNTS[0], _COUNTS[-1]
    grows = (peaks[-1] - peaks[0]) / (many - few) / _STATE
    declared = per_step(subject.method.memory)
    shown = f"{grows:.1f} states a step"
    numbers = {"slope": grows}
    if declared is None:
        return Measured(True, shown, "not declared", numbers=numbers)
    holds = declared.states is None or grows <= declared.states + 0.2
    return Measured(holds, shown, declared.declared, f"peaks {peaks} bytes in {_COUNTS} steps", numbers)


def _peak(subject: GradientSubject, steps: int) -> int:
    """Bytes that a solve of so many steps and its backward pass hold at most."""
    y0 = torch.linspace(-1, 1, 16 * 8, dtype=DOUBLE).reshape(_SHAPE)
    gain = torch.tensor(1.3, dtype=DOUBLE, requires_grad=True)
    many = torch.linspace(0.5, 1.5, 8, dtype=DOUBLE)
    size = 0.5 if subject.steady else 1 / steps  # to a steady state it is a long way
    times = [0.0, steps * size]

    def f(t: Tensor, y: Tensor) -> Tensor:
        return gain * torch.tanh(y.unsqueeze(-1) * many).mean(-1) - 3 * y

    options: dict[str, Any] = {"solver": "rk4", "step_size": size, "rtol": 1e-5, "atol": 1e-5, "dense": False}
    gc.collect()
    with Ledger() as ledger:
        y1 = solve(f, y0, times, gradient=subject.method, **options).y1
        y1.square().sum().backward()
    return ledger.peak
