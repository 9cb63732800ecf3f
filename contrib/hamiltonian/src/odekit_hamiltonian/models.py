"""Models that learn a vector field from trajectories, and the hook that gives them to odekit."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor, nn

import odekit
from odekit.core import options as opt
from odekit.core.protocols import Model, Tools
from odekit.core.solution import Stats
from odekit.errors import InputError
from odekit_hamiltonian import networks
from odekit_hamiltonian.fields import HamiltonianField, LagrangianField, PlainField
from odekit_hamiltonian.systems import Spring
from odekit_hamiltonian.trajectories import TASK, trajectories


@attrs.frozen
class FieldOptions:
    """The network."""

    dims: tuple[int, ...] = opt.widths((64, 64))
    nonlinearity: str = opt.choice("tanh", networks.NONLINEARITIES)


@attrs.frozen
class HamiltonianOptions(FieldOptions):
    """The same, and what the energy may be."""

    energy: str | None = opt.choice(None, networks.ENERGIES)


@attrs.frozen
class LagrangianOptions(FieldOptions):
    """The same; its second derivatives matter, and those of softplus do not change sign."""

    nonlinearity: str = opt.choice("softplus", networks.NONLINEARITIES)


class TrajectoryModel(Model):
    """A vector field that is solved from the first point of each trajectory and compared with the others.

    Trajectories are ``[B, T, 1 + 2n]``: the time and the state, with times that are the same for the whole batch.
    """

    task = TASK
    Options: ClassVar[type[FieldOptions]] = FieldOptions

    def __init__(self, field: nn.Module, tools: Tools) -> None:
        super().__init__()
        self.field = field
        self.solving = tools.solve_options()
        self.stats: Any = Stats()

    @staticmethod
    @abstractmethod
    def field_of(size: int, options: Any, tools: Tools) -> nn.Module:
        """The field for states of ``size`` positions and as many momenta or velocities."""

    @classmethod
    def build(cls, shape: tuple[int, ...], classes: int | None, tools: Tools, **options: Any) -> TrajectoryModel:
        """A fresh model of trajectories ``[T, 1 + 2n]``.

        Raises:
            InputError: samples are not of that shape.
            OptionError: an option is unknown, or a value does not fit.
        """
        chosen = opt.read(cls.Options, options, cls.name)
        if len(shape) != 2 or shape[0] < 2 or shape[1] < 3 or shape[1] % 2 == 0:
            raise InputError(
                f"{cls.name} learns from trajectories [points, 1 + 2n], each point a time and a state of two halves; "
                f"the samples have shape {tuple(shape)}"
            )
        return cls(cls.field_of(shape[1] // 2, chosen, tools), tools)

    @staticmethod
    def example() -> tuple[Tensor, None]:
        """A few short trajectories."""
        return trajectories(Spring(), 6, 5, 0.125, 0.0, torch.Generator().manual_seed(0)).float(), None

    def forward(self, y0: Tensor, times: Tensor) -> Tensor:
        """The states ``[T, B, 2n]`` at ``times [T]``, from ``y0 [B, 2n]`` at the first of them."""
        solution = odekit.solve(self.field, y0, times, **self.solving)
        self.stats = solution.stats
        states: Tensor = solution.ys
        return states

    def loss(
        self, x: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean square error of the states after the first, over points, trajectories and entries.

        Raises:
            InputError: the trajectories of the batch have not the same times.
        """
        times, states = x[..., 0], x[..., 1:]
        if not bool((times == times[0]).all()):
            raise InputError(f"{self.name} solves a batch at once, but its trajectories have different times")
        found = self(states[:, 0], times[0].detach())
        loss = (found[1:] - states[:, 1:].transpose(0, 1)).square().mean()
        return loss, {"mse": loss.detach()}


class HamiltonianNetwork(TrajectoryModel):
    """Learns the energy H(q, p), and moves by Hamilton's equations. Greydanus et al. 2019.

    Options: ``dims`` (hidden widths), ``nonlinearity`` (tanh, softplus, swish), ``energy``: ``separable`` for
    H = T(p) + V(q), which symplectic solvers need, or ``general``; by default what the solver is for.
    """

    name = "hamiltonian"
    Options = HamiltonianOptions

    @staticmethod
    def field_of(size: int, options: Any, tools: Tools) -> nn.Module:
        usual = "separable" if odekit.solver_named(tools.solver).structure == "separable" else "general"
        make = networks.ENERGIES[options.energy or usual]
        return HamiltonianField(make(size, options.dims, options.nonlinearity))


class LagrangianNetwork(TrajectoryModel):
    """Learns a Lagrangian L(q, q̇), and moves by the Euler-Lagrange equations. Cranmer et al. 2020.

    The second half of a state is the velocity. Options: ``dims`` (hidden widths), ``nonlinearity`` (tanh, softplus,
    swish).
    """

    name = "lagrangian"
    Options = LagrangianOptions

    @staticmethod
    def field_of(size: int, options: Any, tools: Tools) -> nn.Module:
        return LagrangianField(networks.Lagrangian(size, options.dims, options.nonlinearity))


class PlainNetwork(TrajectoryModel):
    """A control for both: a vector field without any structure.

    Options: ``dims`` (hidden widths), ``nonlinearity`` (tanh, softplus, swish).
    """

    name = "plain-field"

    @staticmethod
    def field_of(size: int, options: Any, tools: Tools) -> nn.Module:
        return PlainField(networks.mlp(2 * size, options.dims, 2 * size, options.nonlinearity))


@odekit.hookimpl
def register_models(register: Callable[[Any], None]) -> None:
    for model in (HamiltonianNetwork, LagrangianNetwork, PlainNetwork):
        register(model)
