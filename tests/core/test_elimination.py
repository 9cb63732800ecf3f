"""Elimination written out finds what LAPACK finds, with pivots where they are needed, and so do its derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from odekit.core.elimination import LARGEST, Elimination
from odekit.core.jacobian import LU, factors_of

DOUBLE = torch.float64
KINDS = [torch.float32, DOUBLE, torch.complex64, torch.complex128]


def drawn(seed: int, *shape: int, dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n", range(1, LARGEST + 1))
@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_one_matrix_and_many(n: int, dtype: torch.dtype) -> None:
    matrices = drawn(n, 50, n, n, dtype=dtype) + 2 * torch.eye(n, dtype=dtype)
    right = drawn(9, 50, n, dtype=dtype)
    torch.testing.assert_close(matrices @ Elimination.of(matrices).solve(right)[..., None], right[..., None])
    alone = Elimination.of(matrices[0]).solve(right[0])
    torch.testing.assert_close(alone, Elimination.of(matrices).solve(right)[0])


@pytest.mark.parametrize("n", range(1, LARGEST + 1))
def test_the_pivots_are_those_of_lapack(n: int) -> None:
    matrices, right = drawn(n, 200, n, n), drawn(9, 200, n)
    made, theirs = Elimination.of(matrices), LU.of(matrices)
    lu = torch.stack([torch.stack(row, -1) for row in made.rows], -2)
    torch.testing.assert_close(lu, theirs.lu, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(made.solve(right), theirs.solve(right), rtol=1e-8, atol=1e-8)


def test_zeros_and_next_to_nothing_on_the_diagonal_are_swapped_away() -> None:
    turned = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]], dtype=DOUBLE)
    right = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=DOUBLE)
    assert torch.equal(Elimination.of(turned).solve(right), turned.T @ right)
    nearly = torch.tensor([[1e-20, 1.0], [1.0, 1.0]], dtype=DOUBLE)
    found = Elimination.of(nearly).solve(torch.tensor([1.0, 2.0], dtype=DOUBLE))
    torch.testing.assert_close(found, torch.ones(2, dtype=DOUBLE))


def test_a_singular_matrix_gives_what_is_not_finite_in_its_own_row_only() -> None:
    both = torch.stack([torch.ones(2, 2, dtype=DOUBLE), torch.eye(2, dtype=DOUBLE)])
    found = Elimination.of(both).solve(torch.tensor([[1.0, 2.0], [1.0, 2.0]], dtype=DOUBLE))
    assert not found[0].isfinite().any()
    assert torch.equal(found[1], torch.tensor([1.0, 2.0], dtype=DOUBLE))


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("dtype", [DOUBLE, torch.complex128], ids=str)
def test_derivatives(n: int, dtype: torch.dtype) -> None:
    matrices = drawn(3, 2, n, n, dtype=dtype).requires_grad_()
    right = drawn(4, 2, n, dtype=dtype).requires_grad_()
    assert gradcheck(lambda a, b: Elimination.of(a).solve(b), (matrices, right))


def test_a_state_keeps_its_shape_and_a_real_one_takes_complex_factors() -> None:
    matrix, right = drawn(0, 3, 4, 4), drawn(1, 3, 2, 2)
    assert Elimination.of(matrix).solve(right).shape == (3, 2, 2)
    complex_matrix = matrix + 1j * torch.eye(4, dtype=DOUBLE)
    found = Elimination.of(complex_matrix).solve(right)
    torch.testing.assert_close(found, LU.of(complex_matrix).solve(right))


def test_it_is_for_the_smallest_matrices_in_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(factors_of(torch.eye(2)), LU)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert isinstance(factors_of(torch.eye(LARGEST)), Elimination)
    assert isinstance(factors_of(torch.eye(LARGEST + 1)), LU)
    assert isinstance(factors_of(torch.eye(2, dtype=torch.complex64)), LU)
