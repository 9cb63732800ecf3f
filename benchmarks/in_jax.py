"""f of the drawn problems once more, in JAX, and diffrax's solves of them.

JAX is set up by this import, so import it only where diffrax takes part: one thread, float64, no accelerator.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["JAX_PLATFORMS"] = "cpu"

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.measure import Measured
from benchmarks.problems import Problem

jax.config.update("jax_enable_x64", True)

Field = Callable[[Any, Any], Any]
STEPS = 100_000
CONTROLLERS: dict[str, dict[str, float]] = {"Kvaerno5": {"pcoeff": 0.3, "icoeff": 0.4}}
"""Coefficients of the PID controller: for stiff problems those of diffrax's own example, else its defaults."""


def _b1(t: Any, y: Any) -> Any:
    u, v = y
    return jnp.stack([2 * (u - u * v), -(v - u * v)])


def _orbit(t: Any, y: Any) -> Any:
    place, velocity = y[:2], y[2:]
    return jnp.concatenate([velocity, -place / (place**2).sum() ** 1.5])


_MOON = 0.012277471


def _arenstorf(t: Any, y: Any) -> Any:
    u, v, du, dv = y
    earth = (1 - _MOON) * ((u + _MOON) ** 2 + v**2) ** -1.5
    moon = _MOON * ((u - 1 + _MOON) ** 2 + v**2) ** -1.5
    ddu = u + 2 * dv - earth * (u + _MOON) - moon * (u - 1 + _MOON)
    ddv = v - 2 * du - (earth + moon) * v
    return jnp.stack([du, dv, ddu, ddv])


def _rober(t: Any, y: Any) -> Any:
    a, b, c = y
    slow, fast, pair = 0.04 * a, 1e4 * b * c, 3e7 * b**2
    return jnp.stack([fast - slow, slow - fast - pair, pair])


def _orego(t: Any, y: Any) -> Any:
    a, b, c = y
    return jnp.stack([77.27 * (b + a * (1 - 8.375e-6 * a - b)), (c - (1 + a) * b) / 77.27, 0.161 * (a - c)])


def _brusselator(t: Any, y: Any) -> Any:
    u, v = jnp.split(y, 2)
    product = u**2 * v
    du = 1 + product - 4 * u + _diffusion(u, 1.0)
    dv = 3 * u - product + _diffusion(v, 3.0)
    return jnp.concatenate([du, dv])


def _diffusion(u: Any, edge: float) -> Any:
    padded = jnp.pad(u, 1, constant_values=edge)
    return (len(u) + 1) ** 2 / 50 * (padded[:-2] - 2 * u + padded[2:])


FIELDS: dict[str, Field] = {
    "B1": _b1, "D3": _orbit, "arenstorf": _arenstorf, "rober": _rober, "orego": _orego, "brusselator": _brusselator,
}  # fmt: skip


class Calls:
    """f that tells the host of each of its calls, also from inside of a compiled program."""

    def __init__(self, f: Field) -> None:
        self.f = f
        self.count = 0

    def __call__(self, t: Any, y: Any) -> Any:
        jax.debug.callback(self._one_more)
        return self.f(t, y)

    def _one_more(self) -> None:
        self.count += 1


@functools.cache
def _program(problem: Problem, method: str, counted: bool) -> tuple[Any, Calls]:
    """``run(y0, rtol, atol)``, to be compiled by its first call: y at the end, and whether the solve came there."""
    calls = Calls(FIELDS[problem.name])
    f = calls if counted else calls.f
    solver = getattr(diffrax, method)()

    @jax.jit
    def run(y0: Any, rtol: Any, atol: Any) -> tuple[Any, Any]:
        found = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, args: f(t, y)), solver, *problem.span, dt0=None, y0=y0,
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol, **CONTROLLERS.get(method, {})),
            max_steps=STEPS, saveat=diffrax.SaveAt(t1=True), throw=False,
        )  # fmt: skip
        return found.ys[-1], found.result == diffrax.RESULTS.successful

    return run, calls


def diffraxs(problem: Problem, method: str, rtol: float) -> Measured:
    """By diffrax's solver of this name, compiled as a whole.

    The calls of f are counted by a program of their own, in which f reports to the host. The seconds are those of the
    program without it, after one call to compile it.
    """
    inputs = (jnp.asarray(problem.y0.numpy()), rtol, jnp.asarray(problem.atol(rtol).numpy()))
    counted, calls = _program(problem, method, counted=True)
    calls.count = 0
    jax.block_until_ready(counted(*inputs))
    jax.effects_barrier()
    run, _ = _program(problem, method, counted=False)
    jax.block_until_ready(run(*inputs))
    start = time.perf_counter()
    y, arrived = jax.block_until_ready(run(*inputs))
    seconds = time.perf_counter() - start
    answer = torch.from_numpy(np.array(y) if arrived else np.full(y.shape, np.nan))
    return Measured(problem.digits(answer), calls.count, 0, seconds)
