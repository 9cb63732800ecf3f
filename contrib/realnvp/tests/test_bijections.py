"""The pieces of the chains: inverses are inverse, determinants are those of the Jacobian."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from odekit_realnvp.actnorm import ActNorm
from odekit_realnvp.coupling import AffineCoupling
from odekit_realnvp.lu_linear import LULinear

SIZE = 5
BIJECTIONS = {
    "coupling": lambda: AffineCoupling([0, 3], [1, 2, 4], (16,), "tanh", 2.0),
    "actnorm": lambda: ActNorm(SIZE),
    "lu": lambda: LULinear(SIZE),
}


def stirred(name):
    torch.manual_seed(0)
    bijection = BIJECTIONS[name]().double()
    with torch.no_grad():
        for parameter in bijection.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return bijection


@pytest.mark.parametrize("name", BIJECTIONS)
def test_the_inverse_is_one(name):
    bijection, x = stirred(name), torch.randn(7, SIZE, dtype=torch.float64)
    z, _ = bijection(x)
    assert (z - x).abs().max() > 0.1
    torch.testing.assert_close(bijection.inverse(z), x, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", BIJECTIONS)
def test_the_determinant_is_that_of_the_jacobian(name):
    bijection, x = stirred(name), torch.randn(7, SIZE, dtype=torch.float64)
    _, log_det = bijection(x)
    jacobians = torch.func.vmap(torch.func.jacrev(lambda row: bijection(row[None])[0][0]))(x)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobians).logabsdet, rtol=0, atol=1e-12)


def test_a_coupling_keeps_what_it_keeps_and_bounds_its_scale():
    coupling = stirred("coupling")
    x = 1e3 * torch.randn(50, SIZE, dtype=torch.float64)
    with torch.no_grad():
        coupling.net[-1].weight.mul_(1e3)
    z, log_det = coupling(x)
    assert torch.equal(z[:, [0, 3]], x[:, [0, 3]])
    assert log_det.abs().max() <= 3 * 2.0
    assert log_det.abs().max() > 5.9  # the bound is reached


def test_actnorm_begins_with_what_the_batch_needs():
    norm = ActNorm(3)
    x = torch.randn(200, 3) * torch.tensor([5.0, 0.1, 0.0]) + torch.tensor([-3.0, 2.0, 7.0])
    norm.fit(x)
    z, _ = norm(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(z.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]), rtol=0, atol=1e-5)
    assert norm.log_scale[2] == 0  # an entry that does not vary keeps its scale


def fit_a_half(rank, place):
    """In one of two processes: fit to every second row, and leave the constants behind."""
    dist.init_process_group("gloo", init_method=f"file://{place}/meeting", rank=rank, world_size=2)
    norm = ActNorm(3)
    norm.fit(batch()[rank::2])
    torch.save(norm.state_dict(), f"{place}/{rank}.pt")
    dist.destroy_process_group()


def batch():
    return torch.randn(40, 3, generator=torch.Generator().manual_seed(2)) * torch.tensor([5.0, 0.1, 1.0]) + 2


def test_processes_begin_with_what_all_of_their_batches_need(tmp_path):
    torch.multiprocessing.spawn(fit_a_half, (str(tmp_path),), nprocs=2)
    alone = ActNorm(3)
    alone.fit(batch())
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for name, expected in alone.state_dict().items():
        assert torch.equal(one[name], two[name])
        torch.testing.assert_close(one[name], expected, rtol=1e-5, atol=1e-5)


def test_the_linear_map_begins_as_a_rotation():
    torch.manual_seed(3)
    linear = LULinear(4)
    matrix = linear(torch.eye(4))[0].T
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(4), rtol=0, atol=1e-6)
    assert (matrix - torch.eye(4)).abs().max() > 0.1
