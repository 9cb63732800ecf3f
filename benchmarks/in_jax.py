"""f of the drawn problems once more, in JAX, and diffrax's solves of them.

JAX is set up by this import, so import it only where diffrax takes part: one thread, float64, no accelerator.
"""

from __future__ import annotations

import functools
import math
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
from benchmarks.problems.stiff import pollu_network

jax.config.update("jax_enable_x64", True)

Field = Callable[[Any, Any], Any]
STEPS = 30_000
"""Steps after which a solve is given up."""
CONTROLLERS: dict[str, dict[str, float]] = {"Kvaerno5": {"pcoeff": 0.3, "icoeff": 0.4}}
"""Coefficients of the PID controller: for stiff problems those of diffrax's own example, else its defaults."""


def _a3(t: Any, y: Any) -> Any:
    return y * jnp.cos(t)


def _b1(t: Any, y: Any) -> Any:
    u, v = y
    return jnp.stack([2 * (u - u * v), -(v - u * v)])


def _c3(t: Any, y: Any) -> Any:
    return _second_differences(y, 0.0)


def _orbit(t: Any, y: Any) -> Any:
    place, velocity = y[:2], y[2:]
    return jnp.concatenate([velocity, -place / (place**2).sum() ** 1.5])


def _e2(t: Any, y: Any) -> Any:
    u, v = y
    return jnp.stack([v, (1 - u**2) * v - u])


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


def _vdpol(t: Any, y: Any) -> Any:
    u, v = y
    return jnp.stack([v, 1e6 * ((1 - u**2) * v - u)])


def _hires(t: Any, y: Any) -> Any:
    a, b, c, d, e, f, g, h = y
    bound = 280 * f * h
    return jnp.stack(
        [
            -1.71 * a + 0.43 * b + 8.32 * c + 0.0007,
            1.71 * a - 8.75 * b,
            -10.03 * c + 0.43 * d + 0.035 * e,
            8.32 * b + 1.71 * c - 1.12 * d,
            -1.745 * e + 0.43 * (f + g),
            -bound + 0.69 * (d + g) + 1.71 * e - 0.43 * f,
            bound - 1.81 * g,
            1.81 * g - bound,
        ]
    )


def _orego(t: Any, y: Any) -> Any:
    a, b, c = y
    return jnp.stack([77.27 * (b + a * (1 - 8.375e-6 * a - b)), (c - (1 + a) * b) / 77.27, 0.161 * (a - c)])


_RATES, _FIRST, _SECOND, _CHANGE = (part.numpy() for part in pollu_network())


def _pollu(t: Any, y: Any) -> Any:
    padded = jnp.append(y, 1.0)
    return (_RATES * padded[_FIRST] * padded[_SECOND]) @ _CHANGE


def _e5(t: Any, y: Any) -> Any:
    a, b, c, d = y
    one, two, three, four = 7.89e-10 * a, 1.1e7 * a * c, 1.13e9 * b * c, 1.13e3 * d
    return jnp.stack([-one - two, one - three, one - two - three + four, two - four])


def _brusselator(t: Any, y: Any) -> Any:
    u, v = jnp.split(y, 2)
    product = u**2 * v
    rate = (len(u) + 1) ** 2 / 50
    du = 1 + product - 4 * u + rate * _second_differences(u, 1.0)
    dv = 3 * u - product + rate * _second_differences(v, 3.0)
    return jnp.concatenate([du, dv])


def _second_differences(u: Any, edge: float) -> Any:
    padded = jnp.pad(u, 1, constant_values=edge)
    return padded[:-2] - 2 * u + padded[2:]


FIELDS: dict[str, Field] = {
    "A3": _a3, "B1": _b1, "C3": _c3, "D3": _orbit, "E2": _e2, "arenstorf": _arenstorf,
    "rober": _rober, "vdpol": _vdpol, "hires": _hires, "orego": _orego, "pollu": _pollu, "e5": _e5,
    "brusselator": _brusselator,
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

    The seconds are those of a second call; the first one compiles the program. The calls of f are counted by a program
    of its own, in which f reports to the host. That is slow, so a solve without an answer is not counted.
    """
    inputs = (jnp.asarray(problem.y0.numpy()), rtol, jnp.asarray(problem.atol(rtol).numpy()))
    run, _ = _program(problem, method, counted=False)
    _, arrived = jax.block_until_ready(run(*inputs))
    if not arrived:
        return Measured(-math.inf, 0, 0, math.inf)
    start = time.process_time()
    y, _ = jax.block_until_ready(run(*inputs))
    seconds = time.process_time() - start
    counted, calls = _program(problem, method, counted=True)
    calls.count = 0
    jax.block_until_ready(counted(*inputs))
    jax.effects_barrier()
    return Measured(problem.digits(torch.from_numpy(np.array(y))), calls.count, 0, seconds)
