"""Dense output: the state inside a step that has been taken.

The cubic Hermite interpolant is the default of every solver: its error is O(dt⁴), so it keeps up with methods to order
three at every point and to order four in the sense of global error. Hairer, Nørsett & Wanner, *Solving ODEs I*, II.6.
"""

from __future__ import annotations

from torch import Tensor

from odekit.core.times import Time, coefficient


def hermite(y0: Tensor, y1: Tensor, f0: Tensor, f1: Tensor, dt: Time, theta: Time) -> Tensor:
    """The cubic through ``y0`` and ``y1``, ``dt`` apart, with the slopes ``f0`` and ``f1``, at ``theta`` in [0, 1]."""
    theta, dt = coefficient(theta, y0), coefficient(dt, y0)
    bend = (1 - 2 * theta) * (y1 - y0) + (theta - 1) * dt * f0 + theta * dt * f1
    return (1 - theta) * y0 + theta * y1 + theta * (theta - 1) * bend


def hermite_slope(y0: Tensor, y1: Tensor, f0: Tensor, f1: Tensor, dt: Time, theta: Time) -> Tensor:
    """The derivative of that cubic with respect to time."""
    theta, dt = coefficient(theta, y0), coefficient(dt, y0)
    straight = (y1 - y0) / dt
    return (1 - theta) * f0 + theta * f1 + 3 * theta * (1 - theta) * (2 * straight - f0 - f1)
