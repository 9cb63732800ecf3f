"""Non-stiff problems that everybody knows: two bodies and more, populations, weather.

Hairer, Nørsett & Wanner, *Solving ODEs I*: the Arenstorf orbit (0.1), the Pleiades (II.10), Lorenz' equations (I.16).
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.problems.problem import Problem, tensor

COMPUTED = "python -m benchmarks.problems.references (SciPy's DOP853, rtol 1e-13)"
FLOOR = 1e-3


def _lotka_volterra(t: Tensor, y: Tensor) -> Tensor:
    """Predators and prey."""
    prey, predators = y.unbind(-1)
    return torch.stack([1.5 * prey - prey * predators, prey * predators - 3 * predators], -1)


def _lorenz(t: Tensor, y: Tensor) -> Tensor:
    """Chaotic: an error grows by some 1e2 over the span here."""
    u, v, w = y.unbind(-1)
    return torch.stack([10 * (v - u), u * (28 - w) - v, u * v - 8 / 3 * w], -1)


_MOON = 0.012277471


def _arenstorf(t: Tensor, y: Tensor) -> Tensor:
    """A satellite between earth and moon, in the frame that turns with them."""
    u, v, du, dv = y.unbind(-1)
    earth = (1 - _MOON) * ((u + _MOON) ** 2 + v**2) ** -1.5
    moon = _MOON * ((u - 1 + _MOON) ** 2 + v**2) ** -1.5
    ddu = u + 2 * dv - earth * (u + _MOON) - moon * (u - 1 + _MOON)
    ddv = v - 2 * du - (earth + moon) * v
    return torch.stack([du, dv, ddu, ddv], -1)


_ARENSTORF_START = (0.994, 0.0, 0.0, -2.00158510637908252240537862224)

_MASSES = tensor([1, 2, 3, 4, 5, 6, 7])


def _pleiades(t: Tensor, y: Tensor) -> Tensor:
    """Seven stars in the plane: x ``[7]``, y ``[7]``, then their velocities."""
    place, velocity = y[..., :14].unflatten(-1, (2, 7)), y[..., 14:]
    apart = place.unsqueeze(-2) - place.unsqueeze(-1)
    cubes = apart.square().sum(-3) ** 1.5 + torch.eye(7, dtype=y.dtype)
    pulls = (_MASSES / cubes.unsqueeze(-3) * apart).sum(-1)
    return torch.cat([velocity, pulls.flatten(-2)], -1)


_ALL = (
    Problem(
        "lotka-volterra",
        _lotka_volterra,
        (1, 1),
        (0.0, 10.0),
        (1.0263447675750947, 0.9096910781361324),
        COMPUTED,
        FLOOR,
    ),
    Problem(
        "lorenz",
        _lorenz,
        (1, 1, 1),
        (0.0, 5.0),
        (-6.512113699419208, -6.974042788415747, 23.924129572104274),
        COMPUTED,
        FLOOR,
    ),
    Problem(
        "arenstorf",
        _arenstorf,
        _ARENSTORF_START,
        (0.0, 17.0652165601579625588917206249),
        _ARENSTORF_START,
        "Hairer, Nørsett & Wanner I, (0.1): the orbit is periodic",
        floor=1.0,
    ),
    Problem(
        "pleiades",
        _pleiades,
        (3, 3, -1, -3, 2, -2, 2, 3, -3, 2, 0, 0, -4, 4, 0, 0, 0, 0, 0, 1.75, -1.5, 0, 0, 0, -1.25, 1, 0, 0),
        (0.0, 3.0),
        (
            0.3706139143970502, 3.237284092057233, -3.222559032418324, 0.6597091455775310, 0.3425581707156584,
            1.562172101400631, -0.7003092922212495, -3.943437585517392, -3.271380973972550, 5.225081843456543,
            -2.590612434977470, 1.198213693392275, -0.2429682344935824, 1.091449240428980, 3.417003806314313,
            1.354584501625501, -2.590065597810775, 2.025053734714242, -1.155815100160448, -0.8072988170223021,
            0.5952396354208710, -3.741244961234010, 0.3773459685750630, 0.9386858869551073, 0.3667922227200571,
            -0.3474046353808490, 2.344915448180937, -1.947020434263292,
        ),
        "Test Set for IVP Solvers 2.4",
        FLOOR,
    ),
)  # fmt: skip

CLASSICS: dict[str, Problem] = {problem.name: problem for problem in _ALL}
