"""The small stiff systems in NumPy, with their Jacobians: by class name, from the number that a row has of its own."""

from __future__ import annotations

from typing import Any

import numpy as np


def van_der_pol(mu: float) -> tuple[Any, Any]:
    return (
        lambda t, y: np.array([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]]),
        lambda t, y: np.array([[0, 1], [-2 * mu * y[0] * y[1] - 1, mu * (1 - y[0] ** 2)]]),
    )


def robertson(factor: float) -> tuple[Any, Any]:
    def f(t: float, y: np.ndarray) -> np.ndarray:
        slow, fast, pair = 0.04 * factor * y[0], 1e4 * y[1] * y[2], 3e7 * y[1] ** 2
        return np.array([fast - slow, slow - fast - pair, pair])

    def jacobian(t: float, y: np.ndarray) -> np.ndarray:
        slow, by_b, by_c, pair = 0.04 * factor, 1e4 * y[2], 1e4 * y[1], 6e7 * y[1]
        return np.array([[-slow, by_b, by_c], [slow, -by_b - pair, -by_c], [0, pair, 0]])

    return f, jacobian


FIELDS = {"VanDerPol": van_der_pol, "Robertson": robertson}
