"""What users do inside f and around a solve, by every registered gradient method, against `direct`."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from problems import DOUBLE
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from odekit import NeuralODE, solve
from odekit.registry import catalog

OTHERS = sorted({entry.name for entry in catalog().entries("gradient")} - {"direct", "implicit"})
"""``implicit`` is for steady states, and has tests of its own."""
OF_AUTOGRAD = [name for name in OTHERS if name != "forward"]
"""Those that serve an f which calls autograd: forward sensitivities do not get through it."""
TIGHT = {"rtol": 1e-10, "atol": 1e-11}


class Net(nn.Module):
    """A small vector field with a tied, a frozen and a scalar parameter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.outer = nn.Linear(2, 6).double(), nn.Linear(6, 2).double()
        self.again = self.inner  # the same layer under two names
        self.frozen = nn.Parameter(torch.full((2,), 0.3, dtype=DOUBLE), requires_grad=False)
        self.gain = nn.Parameter(torch.tensor(0.7, dtype=DOUBLE))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        hidden = torch.tanh(self.inner(y)) + torch.sin(t) * torch.tanh(self.again(y + self.frozen))
        return self.gain * self.outer(hidden)


class Hamiltonian(nn.Module):
    """dq/dt = ∂H/∂p, dp/dt = -∂H/∂q, by autograd inside f."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.energy = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1)).double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            y = y if y.requires_grad else y.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.energy(y).sum(), y, create_graph=True)
        return torch.stack([slope[..., 1], -slope[..., 0]], -1)


class Trace(nn.Module):
    """[z, log p] with the exact trace of ∂f/∂z, as in a continuous normalizing flow."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.net = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 2)).double()

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        z = state[0]
        with torch.enable_grad():
            z = z if z.requires_grad else z.detach().requires_grad_()
            dz = self.net(z)
            rows = [torch.autograd.grad(dz[:, k].sum(), z, create_graph=True)[0][:, k] for k in range(2)]
        return dz, -torch.stack(rows).sum(0)


def grads(f: Any, y0: Any, gradient: str, wrt: list[Tensor], t: Any = (0.0, 0.4, 1.0), **options: Any) -> list[Any]:
    solution = solve(f, y0, t, gradient=gradient, **{**TIGHT, **options})
    leaves = solution.ys if isinstance(solution.ys, tuple) else (solution.ys,)
    loss = sum(
        (leaf.abs().square() * torch.linspace(0.5, 1, leaf.numel()).reshape(leaf.shape)).sum() for leaf in leaves
    )
    return list(torch.autograd.grad(loss, wrt, allow_unused=True))


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def same(f: Any, y0: Any, gradient: str, wrt: list[Tensor], rtol: float = 1e-6, **options: Any) -> None:
    expected, found = (grads(f, y0, name, wrt, **options) for name in ("direct", gradient))
    assert all(x is not None for x in expected)
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * 1e-2)


@pytest.mark.parametrize("batch", ["shared", "rows"])
@pytest.mark.parametrize("gradient", OTHERS)
def test_tied_frozen_and_scalar_parameters(gradient: str, batch: str) -> None:
    net, y0 = Net(), seeded(3, 2)
    same(net, y0, gradient, [y0, *(p for p in net.parameters() if p.requires_grad)], batch=batch)
    assert net.frozen.grad is None


@pytest.mark.parametrize("gradient", OTHERS)
def test_a_parameter_shared_between_f_args_and_the_initial_state(gradient: str) -> None:
    """Its gradient is the sum over all three ways."""
    weight = seeded(2, 2)

    def f(t: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        return torch.tanh(y @ weight) * scale.mean(0)

    expected, found = (
        torch.autograd.grad(
            solve(f, torch.tanh(weight), [0.0, 1.0], args=(2 * weight,), gradient=name, **TIGHT).y1.sum(), weight
        )
        for name in ("direct", gradient)
    )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("gradient", OTHERS)
def test_tensors_captured_by_closure(gradient: str) -> None:
    y0, weight, bias = seeded(3, 2), seeded(2, 2, seed=1), seeded(2, seed=2)
    found = []
    for name in ("direct", gradient):
        moved = bias.exp()  # not a leaf
        found.append(grads(lambda t, y, m=moved: torch.cos(y @ weight + m), y0, name, [y0, weight, bias]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("gradient", OTHERS)
def test_islands_without_gradients_inside_f(gradient: str) -> None:
    y0, weight = seeded(3, 2), seeded(2, 2, seed=1)

    def f(t: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            scale = 1 + torch.tanh(y @ weight).abs().mean()
        return torch.tanh(y @ weight) / scale

    same(f, y0, gradient, [y0, weight])


@pytest.mark.parametrize("make", [Hamiltonian, Trace])
@pytest.mark.parametrize("gradient", OF_AUTOGRAD)
def test_f_that_calls_autograd_itself(gradient: str, make: Callable[[], nn.Module]) -> None:
    f, y0 = make(), seeded(4, 2)
    state = (y0, torch.zeros(4, dtype=DOUBLE)) if make is Trace else y0
    wrt = [y0, *(p for n, p in f.named_parameters() if not n.endswith("2.bias"))]
    same(f, state, gradient, wrt)


@pytest.mark.parametrize("gradient", OTHERS)
def test_mixed_precision_around_the_solve(gradient: str) -> None:
    """f runs in bfloat16, in the backward pass as well, and the solver does not."""
    torch.manual_seed(0)
    net, seen = nn.Linear(4, 4), []

    def f(t: Tensor, y: Tensor) -> Tensor:
        out = net(y)
        seen.append(out.dtype)
        return torch.tanh(out)

    y0 = torch.randn(8, 4).requires_grad_()
    found = []
    for name in ("direct", gradient):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y1 = solve(f, y0, [0.0, 1.0], gradient=name, solver="rk4", step_size=0.1).y1
        assert y1.dtype == torch.float32
        found.append(torch.autograd.grad(y1.square().sum(), [y0, *net.parameters()]))
    assert set(seen) == {torch.bfloat16}
    torch.testing.assert_close(found[1], found[0], rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("gradient", ["direct", *OTHERS])
def test_accumulation_over_micro_batches(gradient: str) -> None:
    net, y0 = Net(), seeded(6, 2)
    layer = NeuralODE(net, gradient=gradient, **TIGHT)
    whole = torch.autograd.grad(layer(y0).square().sum(), [p for p in net.parameters() if p.requires_grad])
    for part in y0.split(2):
        layer(part).square().sum().backward()
    found = [p.grad for p in net.parameters() if p.requires_grad]
    torch.testing.assert_close(found, list(whole), rtol=1e-6, atol=1e-8)


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _train(rank: int, port: int, found: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    y0 = seeded(6, 2).detach()[3 * rank : 3 * rank + 3]
    for gradient in ["direct", *OTHERS]:
        net = Net()
        model = DistributedDataParallel(NeuralODE(net, gradient=gradient, **TIGHT))
        model(y0).square().mean().backward()
        found[gradient, rank] = [p.grad for p in net.parameters() if p.requires_grad]
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_with_distributed_data_parallel() -> None:
    """The hooks see every parameter's gradient, so that both processes have that of the whole batch."""
    with mp.Manager() as manager:
        found = manager.dict()
        mp.spawn(_train, (_port(), found), nprocs=2)
        all_of_them = dict(found)
    net = Net()
    loss = NeuralODE(net, gradient="direct", **TIGHT)(seeded(6, 2).detach()).square().mean()
    expected = list(torch.autograd.grad(loss, [p for p in net.parameters() if p.requires_grad]))
    assert len(all_of_them) == 2 * (1 + len(OTHERS))
    for grads_there in all_of_them.values():
        torch.testing.assert_close(grads_there, expected, rtol=1e-6, atol=1e-8)
