"""The same answers and gradients on a CUDA device as on the CPU; skipped where there is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import odekit

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

STEPS: dict[str, dict[str, Any]] = {
    "dopri5": {"rtol": 1e-8, "atol": 1e-8},
    "rk4": {"step_size": 0.05},
    "kvaerno3": {"rtol": 1e-6, "atol": 1e-8},
}


def field(device: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).to(device, torch.float64)


def solved(device: str, solver: str, gradient: str, times_on: str) -> list[Tensor]:
    net = field(device)
    y0 = torch.linspace(-1, 1, 8, dtype=torch.float64, device=device).reshape(4, 2).requires_grad_()
    t = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64, device=times_on, requires_grad=True)
    solution = odekit.solve(lambda t, y: net(y) * (1 + t), y0, t, solver=solver, gradient=gradient, **STEPS[solver])
    assert solution.ys.device.type == device
    grads = torch.autograd.grad(solution.ys.square().sum(), [y0, t, *net.parameters()])
    assert grads[1].device.type == times_on
    return [solution.ys, *grads]


@pytest.mark.parametrize("times_on", ["cpu", "cuda"])
@pytest.mark.parametrize("gradient", ["direct", "checkpointed", "adjoint"])
@pytest.mark.parametrize("solver", STEPS)
def test_a_solve_gives_what_it_gives_on_the_cpu(solver: str, gradient: str, times_on: str) -> None:
    expected = solved("cpu", solver, gradient, "cpu")
    for here, there in zip(solved("cuda", solver, gradient, times_on), expected, strict=True):
        torch.testing.assert_close(here.cpu(), there, rtol=1e-5, atol=1e-6)


def test_fixed_steps_read_nothing_back_from_the_device_until_the_end() -> None:
    net, y0 = field("cuda"), torch.ones(4, 2, dtype=torch.float64, device="cuda")
    reads = []
    for steps in (4, 64):
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile, torch.no_grad():
            odekit.solve(lambda t, y: net(y), y0, [0.0, 1.0], solver="rk4", step_size=1 / steps)
        reads.append(sum(event.count for event in profile.key_averages() if event.key == "aten::_local_scalar_dense"))
    assert reads[0] == reads[1]


def test_tensors_on_two_devices_are_a_clear_error() -> None:
    with pytest.raises(odekit.errors.InputError, match="one device"):
        odekit.solve(lambda t, y: y, (torch.ones(2), torch.ones(2, device="cuda")), [0.0, 1.0])
    with pytest.raises(odekit.errors.DynamicsError, match="cpu"):
        odekit.solve(lambda t, y: y.cpu(), torch.ones(2, device="cuda"), [0.0, 1.0])
