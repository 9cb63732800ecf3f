"""The states that a solver takes: dtypes, complex numbers, nesting, and rows on their own steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from odekit.errors import InputError
from odekit.solving import solve
from odekit.testing.checks import Checks, Measured
from odekit.testing.measure import apart
from odekit.testing.probe import Dtypes
from odekit.testing.problems import DOUBLE, LINEAR
from odekit.testing.solver.subject import SolverSubject

CHECKS = Checks()

_SPAN = (0.2, 1.0)
_TURN = torch.complex(torch.tensor(-0.4, dtype=DOUBLE), torch.tensor(1.1, dtype=DOUBLE))


@CHECKS.add
def single_precision(subject: SolverSubject) -> Measured:
    """A float32 state stays float32, no float64 tensor is made, and single precision is made use of."""
    problem = subject.timed
    pace: dict[str, Any] = {"step_size": 0.08, "rtol": 1e-6, "atol": 1e-7}
    linear = None if problem.linear is None else problem.linear.float()
    seen = Dtypes()
    y0 = problem.exact(_SPAN[0])
    single = y0.float()
    solver, wide = subject.told(linear), subject.told(problem.linear)

    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.cos(t) - y * (1 if problem.structure != "separable" else 0)

    with seen:
        found = solve(f, single, [_SPAN[0], 0.63, _SPAN[1]], solver=solver, **pace)
    expected = solve(f, y0, [_SPAN[0], 0.63, _SPAN[1]], solver=wide, **pace)
    error = apart(found.ys.double(), expected.ys)
    doubles = {torch.float64, torch.complex128} & seen.seen
    holds = found.ys.dtype == torch.float32 and error < 3e-5 and not doubles
    detail = f"operations made tensors of {', '.join(map(str, doubles))}" if doubles else ""
    return Measured(holds, f"{found.ys.dtype}, {error:.1e} from float64", "torch.float32, within 3e-5", detail)


@CHECKS.add
def complex_states(subject: SolverSubject) -> Measured:
    """A complex state gives what its real and imaginary parts give as a real one; or, if so declared, is refused."""
    solver, structure = subject.solver, subject.solver.structure
    wide = 4 if structure == "separable" else 3
    u0 = torch.linspace(-0.8, 0.9, 2 * wide, dtype=DOUBLE)
    z0 = _to_complex(u0, structure)
    linear = None if structure != "semilinear" else LINEAR

    def f(t: Tensor, z: Tensor) -> Tensor:
        if structure == "separable":
            q, p = z.chunk(2, -1)
            return torch.cat([_TURN * p + 0.3 * p**2, torch.cos(t) - _TURN * q], -1)
        rest = z @ LINEAR.mT.to(z.dtype) if structure == "semilinear" else _TURN * z.roll(1, -1)
        return rest + 0.3 * z**2 + torch.cos(t)

    def real(t: Tensor, u: Tensor) -> Tensor:
        return _to_real(f(t, _to_complex(u, structure)), structure)

    options: dict[str, Any] = {"step_size": 0.1, "rtol": 1e-12, "atol": 1e-13}
    if not solver.complex_states:
        try:
            solve(f, z0, [*_SPAN], solver=subject.told(linear), **options)
        except InputError as error:
            return Measured(True, "refused", "an InputError", str(error))
        return Measured(False, "taken", "an InputError, for complex_states is False")
    twice = None if linear is None else torch.block_diag(linear, linear)
    found = solve(f, z0, [*_SPAN], solver=subject.told(linear), **options).y1
    expected = solve(real, u0, [*_SPAN], solver=subject.told(twice), **options).y1
    gap = apart(_to_real(found, structure), expected)
    return Measured(gap < 1e-8, f"{gap:.1e} apart", "the same as the real system, within 1e-8")


def _to_complex(u: Tensor, structure: str) -> Tensor:
    """From [re | im], of a separable system in either half."""
    halves = u.chunk(2, -1) if structure == "separable" else (u,)
    return torch.cat([torch.complex(*half.chunk(2, -1)) for half in halves], -1)


def _to_real(z: Tensor, structure: str) -> Tensor:
    halves = z.chunk(2, -1) if structure == "separable" else (z,)
    return torch.cat([part for half in halves for part in (half.real, half.imag)], -1)


@CHECKS.add
def nested_states(subject: SolverSubject) -> Measured:
    """A nested state gives what the packed one gives."""
    problem = subject.timed
    packed = torch.stack([problem.exact(_SPAN[0]), 0.7 * problem.exact(_SPAN[0])])
    pair = problem.structure == "separable"

    def nested(y: Tensor) -> Any:
        return tuple(y.chunk(2, -1)) if pair else {"a": y[..., :1], "b": (y[..., 1:],)}

    def joined(y: Any) -> Tensor:
        return torch.cat(y if pair else [y["a"], y["b"][0]], -1)

    solver = subject.told(problem.linear)
    pace: dict[str, Any] = {"step_size": 0.1, "rtol": 1e-12, "atol": 1e-13}
    found = solve(lambda t, y: nested(problem.f(t, joined(y))), nested(packed), [*_SPAN], solver=solver, **pace)
    expected = solve(problem.f, packed, [*_SPAN], solver=solver, **pace)
    gap = apart(joined(found.y1), expected.y1)
    return Measured(gap < 1e-12, f"{gap:.1e} apart", "the same")


@CHECKS.add
def rows_alone(subject: SolverSubject) -> Measured:
    """Rows on their own steps give what each gives alone, in as many steps, with spans of any length and direction."""
    problem = subject.timed
    spans = torch.tensor([[0.2, 1.0], [1.0, 0.3], [0.4, 0.9]], dtype=DOUBLE)
    y0 = torch.stack([problem.exact(float(span[0])) * factor for span, factor in zip(spans, (1, 0.5, 2), strict=True)])
    solver, pace = subject.told(problem.linear), subject.pace(0.09, 1e-4)
    together = solve(problem.f, y0, spans, solver=solver, batch="rows", **pace)
    steps = torch.as_tensor(together.stats.accepted).tolist()
    worst, counted = 0.0, True
    for row in range(len(spans)):
        own = slice(row, row + 1)
        alone = solve(problem.f, y0[own], spans[own], solver=solver, batch="rows", **pace)
        worst = max(worst, apart(together.ys[own], alone.ys))
        counted = counted and steps[row] == int(torch.as_tensor(alone.stats.accepted))
    how = "by rows" if solver.rowwise else "one after the other"
    said = f"{worst:.1e} apart, {'as many' if counted else 'other numbers of'} steps, {how}"
    return Measured(worst < 1e-9 and counted, said, "rounding, as many steps")
