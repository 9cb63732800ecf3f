"""The competitors by name, and the module that each is in. Only the process that plays one imports it."""

from __future__ import annotations

MODULES = {
    "odekit": "benchmarks.competitors.odekit_eager",
    "odekit-step": "benchmarks.competitors.odekit_step",
    "odekit-solve": "benchmarks.competitors.odekit_solve",
    "torchdiffeq": "benchmarks.competitors.torchdiffeq",
    "torchdiffeq-adjoint": "benchmarks.competitors.torchdiffeq_adjoint",
    "torchode": "benchmarks.competitors.torchode",
    "torchdyn": "benchmarks.competitors.torchdyn",
    "diffrax": "benchmarks.competitors.diffrax",
    "scipy": "benchmarks.competitors.scipy",
    "limit": "benchmarks.competitors.limit",
}
IN_JAX = ("diffrax",)
"""Those that run under a Python of their own, and get arrays rather than modules."""
OURS = ("odekit", "odekit-step", "odekit-solve")


class Unfit(Exception):
    """A competitor cannot take part in a workload; the message says why."""
