"""The φ functions, against Taylor series in exact arithmetic and against SciPy's matrix exponential."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.linalg

from odekit.core.phi import phis_of_matrix, phis_of_numbers


def by_series(z: float, k: int) -> float:
    """φ_k(z) = Σ z^j / (j+k)! in rational numbers, which cannot cancel."""
    exact = Fraction(z)
    return float(sum((exact**j / math.factorial(j + k) for j in range(60)), Fraction(0)))


@pytest.mark.parametrize("z", [0.0, 1e-14, -1e-5, 0.3, -0.999, 1.0, -1.0, -1.001, 3.0, -8.0])
def test_real_numbers(z: float) -> None:
    found = [float(value[0]) for value in phis_of_numbers(np.array([z]))]
    assert found == pytest.approx([by_series(z, k) for k in range(4)], rel=2e-14)


def test_numbers_far_away() -> None:
    """Where e^z has vanished: -1/z, -(1 + 1/z)/z and so on."""
    z = np.array([-1e3, -1e8])
    found = phis_of_numbers(z)
    for value, expected in zip(found, (0 * z, -1 / z, -(1 + 1 / z) / z, -(0.5 + 1 / z + 1 / z**2) / z), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-14)
        assert value.dtype == np.float64


def augmented(z: np.ndarray) -> list[np.ndarray]:
    """All of them as blocks of one matrix exponential."""
    n = len(z)
    whole = np.zeros((4 * n, 4 * n), dtype=z.dtype)
    whole[:n, :n] = z
    for k in range(3):
        whole[k * n : (k + 1) * n, (k + 1) * n : (k + 2) * n] = np.eye(n)
    top = scipy.linalg.expm(whole)[:n]
    return [top[:, k * n : (k + 1) * n] for k in range(4)]


@pytest.mark.parametrize("kind", [1, -1, 1j])
@pytest.mark.parametrize("scale", [0.0, 1e-9, 0.1, 1.0, 12.0])
def test_matrices(scale: float, kind: complex) -> None:
    z = scale * kind * np.random.default_rng(0).normal(size=(5, 5))
    half, whole = phis_of_matrix(z)
    for found, expected in zip((*half, *whole), (*augmented(z / 2), *augmented(z)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12 * max(1.0, np.abs(expected).max()))


def test_stiff_matrices_and_their_eigenvalues() -> None:
    """The heat equation's second differences over a long step."""
    n = 20
    z = 300.0 * (np.eye(n, k=1) + np.eye(n, k=-1) - 2 * np.eye(n))
    eigenvalues, vectors = np.linalg.eigh(z)
    for found, values in zip(phis_of_matrix(z)[1], phis_of_numbers(eigenvalues), strict=True):
        np.testing.assert_allclose(found, vectors @ np.diag(values) @ vectors.T, rtol=0, atol=1e-13)
