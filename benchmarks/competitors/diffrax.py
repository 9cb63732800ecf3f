"""diffrax, everything compiled: rows on their own steps by vmap, and its own ways of differentiating.

Runs without PyTorch, on the arrays of a workload.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.competitors import Unfit
from benchmarks.competitors.fields_in_jax import FIELDS, LOSSES
from benchmarks.competitors.runner import Calls

jax.config.update("jax_enable_x64", True)

SOLVERS = {"dopri5": diffrax.Dopri5, "stiff": diffrax.Kvaerno5}
STIFF = {"pcoeff": 0.3, "icoeff": 0.4}
"""The controller of diffrax's own example of a stiff problem."""
MOST_STEPS = 100_000


class RK4(diffrax.AbstractERK):
    """Kutta's method of order four, which diffrax leaves to its users."""

    tableau = diffrax.ButcherTableau(
        c=np.array([0.5, 0.5, 1.0]),
        b_sol=np.array([1, 2, 2, 1]) / 6,
        b_error=np.zeros(4),
        a_lower=(np.array([0.5]), np.array([0, 0.5]), np.array([0, 0, 1.0])),
    )
    interpolation_cls = diffrax.ThirdOrderHermitePolynomialInterpolation.from_k

    def order(self, terms: Any) -> int:
        return 4


class DiffraxRunner:
    """A compiled pass."""

    def __init__(self, arrays: dict[str, Any], told: dict[str, Any]) -> None:
        self.told = told
        self.y0, self.t = jnp.asarray(arrays.pop("y0")), [float(x) for x in arrays.pop("t")]
        trained = told["parameters"]
        self.parameters = {name: jnp.asarray(arrays.pop(name)) for name in trained}
        self.data = {name: jnp.asarray(value) for name, value in arrays.items()}
        self.count = 0
        self.versions = {"diffrax": diffrax.__version__, "jax": jax.__version__}
        self.run = jax.jit(self._pass(counted=False))

    def once(self) -> None:
        jax.block_until_ready(self.run(self.parameters, self.y0))

    def answer(self, to: Path) -> Calls:
        counted = jax.jit(self._pass(counted=True))
        jax.block_until_ready(counted(self.parameters, self.y0))
        jax.effects_barrier()
        found = self.run(self.parameters, self.y0)
        if self.told["gradient"]:
            found = jnp.concatenate([found[name].ravel() for name in self.told["parameters"]])
        np.save(to, np.asarray(found, dtype=np.float64).ravel())
        return self.count, 0

    def _pass(self, counted: bool) -> Any:
        def end(parameters: Any, y0: Any) -> Any:
            return self._end(parameters, y0, counted)

        if not self.told["gradient"]:
            return end
        loss = LOSSES[self.told["loss"]]
        return jax.grad(lambda parameters, y0: loss(end(parameters, y0)))

    def _end(self, parameters: Any, y0: Any, counted: bool) -> Any:
        told, field = self.told, FIELDS[self.told["field"]]
        fixed = told["steps"] is not None
        solver = RK4() if fixed else SOLVERS[told["solver"]]()
        control = diffrax.ConstantStepSize() if fixed else diffrax.PIDController(
            rtol=told["rtol"], atol=told["atol"], **(STIFF if told["solver"] == "stiff" else {})
        )  # fmt: skip
        adjoint = diffrax.BacksolveAdjoint() if told["gradient"] == "adjoint" else diffrax.RecursiveCheckpointAdjoint()

        def f(t: Any, y: Any, args: Any) -> Any:
            if counted:
                jax.debug.callback(self._one_more)
            return field(t, y, args)

        def one(y0: Any, data: Any) -> Any:
            return diffrax.diffeqsolve(
                diffrax.ODETerm(f), solver, self.t[0], self.t[-1],
                (self.t[-1] - self.t[0]) / told["steps"] if fixed else None, y0, {**parameters, **data},
                stepsize_controller=control, adjoint=adjoint,
                max_steps=told["steps"] + 1 if fixed else MOST_STEPS,
            ).ys[-1]  # fmt: skip

        return jax.vmap(one)(y0, self.data) if told["rows"] else one(y0, self.data)

    def _one_more(self) -> None:
        self.count += 1


def prepare(case: str, device: str, calls: Calls) -> DiffraxRunner:
    """The workload that was written to the file ``case``."""
    with np.load(case) as file:
        arrays = dict(file)
    told = json.loads(str(arrays.pop("told")))
    if told["field"] not in FIELDS:
        raise Unfit(f"f is not written in JAX: {told['field']}")
    return DiffraxRunner(arrays, told)
