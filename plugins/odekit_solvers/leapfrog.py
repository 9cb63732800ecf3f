"""The leapfrog method for separable systems, known as velocity Verlet and as Störmer's method as well."""

from __future__ import annotations

from collections.abc import Callable

import odekit
from odekit.core.composition import Composition


class Leapfrog(Composition):
    """Kick, drift, kick: symplectic, for separable systems. Hairer, Lubich & Wanner 2003, *Störmer-Verlet method*."""

    name = "leapfrog"
    order = 2
    fractions = (1.0,)


class VelocityVerlet(Leapfrog):
    """Leapfrog by the name that it has in molecular dynamics. Swope et al. 1982, *A computer simulation method*."""

    name = "velocity_verlet"


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    for solver in (Leapfrog, VelocityVerlet):
        register(solver)
