"""f of the workloads once more, in JAX: functions of t, the state, and a dictionary of f's arrays."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

Arrays = dict[str, Any]


def network(t: Any, y: Any, p: Arrays) -> Any:
    for k in (0, 2):
        y = jnp.tanh(y @ p[f"f.net.{k}.weight"].T + p[f"f.net.{k}.bias"])
    return 3 * (y @ p["f.net.4.weight"].T + p["f.net.4.bias"])


def linear(t: Any, y: Any, p: Arrays) -> Any:
    return y @ p["f.matrix"]


def layer(t: Any, y: Any, p: Arrays) -> Any:
    return jnp.tanh(y @ p["f.linear.weight"].T + p["f.linear.bias"])


def van_der_pol(t: Any, y: Any, p: Arrays) -> Any:
    x, v = y[..., :1], y[..., 1:]
    return jnp.concatenate([v, p["args.0"] * (1 - x * x) * v - x], -1)


def robertson(t: Any, y: Any, p: Arrays) -> Any:
    a, b, c = y[..., :1], y[..., 1:2], y[..., 2:]
    slow, fast, pair = 0.04 * p["args.0"] * a, 1e4 * b * c, 3e7 * b * b
    return jnp.concatenate([fast - slow, slow - fast - pair, pair], -1)


def flow(t: Any, y: Any, p: Arrays) -> Any:
    """The velocity, and minus its divergence, exact or by Hutchinson's estimate."""

    def velocity(z: Any) -> Any:
        for k in range(4):
            name = f"f.layers.{k}"
            gate = jax.nn.sigmoid(t * p[f"{name}.gate.weight"][:, 0] + p[f"{name}.gate.bias"])
            shift = t * p[f"{name}.shift.weight"][:, 0]
            z = (z if k == 0 else jnp.tanh(z)) @ p[f"{name}.linear.weight"].T + p[f"{name}.linear.bias"]
            z = z * gate + shift
        return z

    dz, back = jax.vjp(velocity, y[:, :2])
    if "f.noise" in p:
        trace = (back(p["f.noise"])[0] * p["f.noise"]).sum(1)
    else:
        trace = sum(back(jnp.zeros_like(dz).at[:, k].set(1))[0][:, k] for k in range(2))
    return jnp.concatenate([dz, -trace[:, None]], 1)


FIELDS = {
    "Network": network, "Linear": linear, "Layer": layer, "VanDerPol": van_der_pol, "Robertson": robertson,
    "Flow": flow,
}  # fmt: skip


def sum_of_squares(y: Any) -> Any:
    return (y**2).sum()


def negative_log_likelihood(y: Any) -> Any:
    return (0.5 * (y[:, :2] ** 2).sum(1) + y[:, 2]).mean()


LOSSES = {"SumOfSquares": sum_of_squares, "NegativeLogLikelihood": negative_log_likelihood}
