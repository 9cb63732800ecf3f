"""The fields against closed forms: exact flows, energies that stay, gradients that are those of differences."""

from __future__ import annotations

import pytest
import torch
from odekit_hamiltonian.fields import HamiltonianField, LagrangianField
from odekit_hamiltonian.networks import GeneralEnergy, Lagrangian, SeparableEnergy
from odekit_hamiltonian.systems import SYSTEMS, Pendulum

import odekit
from odekit.errors import InputError
from odekit.gradients import Adjoint

DOUBLE = torch.float64
ZERO = torch.zeros((), dtype=DOUBLE)


def oscillator(q, p):
    return (0.5 * p.square() + 0.5 * q.square()).sum(-1)


def pendulum(q, p):
    return Pendulum().energy(torch.cat([q, p], -1))


@pytest.mark.parametrize("solver", ["dopri8", "kahan_li6"])
def test_the_oscillator_turns(solver):
    """Its exact flow is a rotation of the plane."""
    y0 = torch.tensor([[1.0, 0.5], [-0.3, 0.7]], dtype=DOUBLE)
    times = torch.linspace(0, 7, 5, dtype=DOUBLE)
    options = {"rtol": 1e-11, "atol": 1e-12} if solver == "dopri8" else {"step_size": 0.02}
    found = odekit.solve(HamiltonianField(oscillator), y0, times, solver=solver, **options).ys
    c, s = times.cos(), times.sin()
    turns = torch.stack([torch.stack([c, s], -1), torch.stack([-s, c], -1)], -2)
    torch.testing.assert_close(found, torch.einsum("tij,bj->tbi", turns, y0), rtol=0, atol=1e-9)


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_a_systems_field_is_that_of_its_energy(system):
    system = system()
    y = system.starts(5, torch.Generator().manual_seed(1))
    field = HamiltonianField(lambda q, p: system.energy(torch.cat([q, p], -1)))
    torch.testing.assert_close(system(ZERO, y), field(ZERO, y), rtol=0, atol=1e-12)


def test_the_lagrangian_of_a_pendulum_gives_a_pendulum():
    field = LagrangianField(lambda q, v: 0.5 * v.square().sum(-1) - (1 - q.cos()).sum(-1))
    y = Pendulum().starts(5, torch.Generator().manual_seed(1))
    torch.testing.assert_close(field(ZERO, y), Pendulum()(ZERO, y), rtol=0, atol=1e-12)


def test_a_mass_that_depends_on_the_place_is_taken_into_account():
    """A bead on the plane in polar coordinates, L = ½ (ṙ² + r² θ̇²): r̈ = r θ̇², θ̈ = -2 ṙ θ̇ / r."""
    field = LagrangianField(lambda q, v: 0.5 * (v[..., 0] ** 2 + q[..., 0] ** 2 * v[..., 1] ** 2))
    y = torch.rand(3, 2, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)) + 0.5
    r, _, dr, dtheta = y.unbind(-1)
    expected = torch.stack([dr, dtheta, r * dtheta**2, -2 * dr * dtheta / r], -1)
    torch.testing.assert_close(field(ZERO, y), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", ["pendulum", "network"])
def test_the_energy_stays_with_a_symplectic_solver_and_drifts_with_others(make):
    """In ten windows, one after the other: where the error is bounded, the last is no worse than the first."""
    torch.manual_seed(0)
    net = SeparableEnergy(1, (8,), "tanh").double()
    energy = pendulum if make == "pendulum" else lambda q, p: oscillator(q, p) + net(q, p)
    y0, times = torch.tensor([1.2, 0.3], dtype=DOUBLE), torch.linspace(0, 200, 401, dtype=DOUBLE)

    def errors(solver, step_size):
        with torch.no_grad():
            ys = odekit.solve(HamiltonianField(energy), y0, times, solver=solver, step_size=step_size).ys
            q, p = ys.chunk(2, -1)
            drift = (energy(q, p) - energy(q[0], p[0])).abs()
        return drift[1:].reshape(10, 40).amax(1)

    leapfrog, rk4, euler = errors("leapfrog", 0.25), errors("rk4", 0.5), errors("euler", 0.25)
    assert leapfrog[-1] < 1.5 * leapfrog[0]
    assert rk4[-1] > 5 * rk4[0]
    assert euler[-1] > 3 * euler[0]
    assert euler[-1] > 10 * leapfrog[-1]


CASES = {
    "separable, leapfrog": (SeparableEnergy, HamiltonianField, "tanh", {"solver": "leapfrog", "step_size": 0.1}),
    "separable, yoshida4": (SeparableEnergy, HamiltonianField, "tanh", {"solver": "yoshida4", "step_size": 0.1}),
    "general, dopri5": (GeneralEnergy, HamiltonianField, "tanh", {"solver": "dopri5", "rtol": 1e-9, "atol": 1e-10}),
    "lagrangian, dopri5": (Lagrangian, LagrangianField, "softplus", {"solver": "dopri5", "rtol": 1e-9, "atol": 1e-10}),
}

WAY_BACK = Adjoint(solver="dopri5", rtol=1e-9, atol=1e-10, control=odekit.PIDControl())
"""The adjoint system is not separable, so that a general solver goes back."""


@pytest.mark.parametrize("gradient", ["direct", "checkpointed", "adjoint"])
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_differences(case, gradient):
    energy, make, nonlinearity, options = CASES[case]
    torch.manual_seed(0)
    field = make(energy(1, (5,), nonlinearity)).double()
    y0 = torch.tensor([[0.4, 0.9], [1.0, -0.2]], dtype=DOUBLE, requires_grad=True)
    parameters = list(field.parameters())

    def loss(method):
        end = odekit.solve(field, y0, [0.0, 1.0], gradient=method, **options).y1
        return (end * torch.tensor([1.0, -2.0], dtype=DOUBLE)).sin().sum()

    def difference(tensor, direction, h=1e-5):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                tensor.add_(sign * h * direction)
                values.append(loss("direct").item())
                tensor.sub_(sign * h * direction)
        return (values[0] - values[1]) / (2 * h)

    if gradient == "adjoint" and "step_size" in options:
        gradient = WAY_BACK
    grads = torch.autograd.grad(loss(gradient), [y0, *parameters])
    accuracy = 1e-6 if gradient is not WAY_BACK else 5e-3  # the gradient of the equations, not of the steps
    for tensor, grad in zip([y0, *parameters], grads, strict=True):
        direction = torch.randn(tensor.shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
        assert (grad * direction).sum().item() == pytest.approx(difference(tensor, direction), abs=accuracy)


def test_an_energy_that_is_not_separable_is_refused_by_a_symplectic_solver():
    torch.manual_seed(0)
    field = HamiltonianField(GeneralEnergy(1, (8,), "tanh"))
    with pytest.raises(InputError, match="separable"):
        odekit.solve(field, torch.ones(2), [0.0, 1.0], solver="leapfrog", step_size=0.1)
