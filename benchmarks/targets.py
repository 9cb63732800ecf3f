"""What odekit is held to: how many times as fast as a peer, or how many times as long as the bare calls, at most."""

from __future__ import annotations

import attrs


@attrs.frozen
class Target:
    """At least this many times as fast as ``against``; with ``against="limit"`` at most this many times as long.

    None where there is no target for that way to run.
    """

    case: str
    against: str
    odekit: float | None = None
    odekit_step: float | None = None
    odekit_solve: float | None = None


TARGETS = (
    Target("W1", "torchdiffeq", 1.7, 2.3, 4.5),
    Target("W1", "diffrax", odekit_solve=1.0),
    Target("W2a", "torchdiffeq", 1.4, 5.0, 9.0),
    Target("W2a", "diffrax", odekit_solve=1.0),
    Target("W2d", "torchdiffeq", 1.1, 2.0, 2.5),
    Target("W2d", "diffrax", odekit_solve=1.0),
    *(Target(f"W3{case}", "torchdiffeq", 1.2, 2.5) for case in ("ha", "hd", "ea", "ed")),
    *(Target(f"W3{case}", "diffrax", odekit_solve=1.0) for case in ("ha", "hd", "ea", "ed")),
    Target("W4c", "torchdiffeq-adjoint", 6.0, 8.0),
    Target("W4c", "limit", 1.10, 1.05, 1.0),
    *(Target(f"W5-{rows}", "torchode", 1.4, 5.0, 20.0) for rows in (64, 1024)),
    *(Target(f"W5-{rows}", "diffrax", odekit_solve=1.0) for rows in (64, 1024)),
    Target("W6l", "torchdiffeq", 3.0, 8.0),
    Target("W6l", "diffrax", odekit_solve=1.0),
    Target("W6m", "torchdiffeq", 1.2, 2.0),
    Target("W6m", "diffrax", odekit_solve=1.0),
    *(Target(f"W7{letter}-1", "scipy", odekit_step=0.5) for letter in "rv"),
    *(Target(f"W7{letter}-1", "diffrax", odekit_solve=1.0) for letter in "rv"),
    *(Target(f"W7{letter}-64", "diffrax", odekit_step=5.0) for letter in "rv"),
)
