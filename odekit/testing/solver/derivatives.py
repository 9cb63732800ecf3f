"""Gradients through a solver's steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from odekit.errors import GradientError
from odekit.solving import solve
from odekit.testing.checks import Checks, Measured, NotApplicable
from odekit.testing.measure import apart, difference
from odekit.testing.problems import DOUBLE, LINEAR
from odekit.testing.solver.subject import TIGHT, SolverSubject

CHECKS = Checks()

_TIMES = torch.tensor([0.2, 0.57, 1.0], dtype=DOUBLE)
_STEP = 0.21


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _inputs(structure: str) -> dict[str, Tensor]:
    generator = _generator()
    y0 = torch.randn(2, 6 if structure == "separable" else 3, dtype=DOUBLE, generator=generator)
    weight = 0.7 * torch.randn(3, 3, dtype=DOUBLE, generator=generator)
    return {"y0": 0.6 * y0, "weight": weight, "times": _TIMES.clone()}


def _f(structure: str) -> Any:
    def f(t: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        if structure == "separable":
            q, p = y.chunk(2, -1)
            return torch.cat([torch.tanh(p @ weight) * torch.cos(t), torch.sin(q @ weight.mT)], -1)
        rest = y @ LINEAR.mT if structure == "semilinear" else -0.5 * y
        return rest + torch.tanh(y @ weight) * torch.cos(t)

    return f


def _loss(subject: SolverSubject, inputs: dict[str, Tensor], step: float, gradient: str = "direct") -> Tensor:
    structure = subject.solver.structure
    solver = subject.told(LINEAR if structure == "semilinear" else None)
    options: dict[str, Any] = {"solver": solver, "step_size": step, "gradient": gradient, **TIGHT}
    solution = solve(_f(structure), inputs["y0"], inputs["times"], args=(inputs["weight"],), **options)
    weights = torch.linspace(0.5, 1.5, solution.ys.numel(), dtype=DOUBLE).reshape(solution.ys.shape)
    return (weights * solution.ys).sum() + solution.y1.square().sum()


def _gradient(subject: SolverSubject, gradient: str) -> dict[str, Tensor]:
    inputs = {name: value.requires_grad_() for name, value in _inputs(subject.solver.structure).items()}
    try:
        loss = _loss(subject, inputs, _STEP, gradient)
        return dict(zip(inputs, torch.autograd.grad(loss, list(inputs.values())), strict=True))
    except GradientError as error:
        raise NotApplicable(f"the solver has no such gradient and says so: {error}") from error


@CHECKS.add
def gradient(subject: SolverSubject) -> Measured:
    """Backpropagation through the steps gives what finite differences give: for y0, a parameter, and the times."""
    inputs, found = _inputs(subject.solver.structure), _gradient(subject, "direct")
    gaps = {}
    for name, value in inputs.items():
        way = torch.randn(value.shape, dtype=DOUBLE, generator=_generator())
        if name == "times":  # moved and stretched, and the grid of steps with them
            way = 0.3 + 0.4 * value

        def moved(size: float, name: str = name, way: Tensor = way) -> float:
            step = _STEP * (1 + 0.4 * size) if name == "times" else _STEP
            return float(_loss(subject, {**inputs, name: inputs[name] + size * way}, step))

        slope = difference(moved)
        gaps[name] = abs(float((found[name] * way).sum()) - slope) / max(abs(slope), 1e-3)
    said = ", ".join(f"{name} {gap:.1e}" for name, gap in gaps.items())
    return Measured(max(gaps.values()) < 1e-6, f"{said} apart", "within 1e-6, relative")


@CHECKS.add
def gradient_replayed(subject: SolverSubject) -> Measured:
    """Steps taken again, as gradient='checkpointed' does, give the same gradient."""
    direct, again = (_gradient(subject, name) for name in ("direct", "checkpointed"))
    gaps = {name: apart(again[name], direct[name]) for name in direct}
    said = ", ".join(f"{name} {gap:.1e}" for name, gap in gaps.items())
    return Measured(max(gaps.values()) < 1e-9, f"{said} apart", "rounding")
