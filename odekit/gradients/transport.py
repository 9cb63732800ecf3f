"""The adjoint equation along a known trajectory: linear, and of the size of the state."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from odekit.core.expansion import Expanded
from odekit.core.field import Field
from odekit.core.jacobian import Jacobian, Linearised
from odekit.core.linear import Dense, Linear, Rows
from odekit.core.sections import Section
from odekit.core.times import Time, host
from odekit.gradients.coupled import Products
from odekit.gradients.quadrature import Check
from odekit.gradients.trajectory import Trajectory


class Transport:
    """da/dt = -J(t, y(t))ᴴ a with J = ∂f/∂y, as a vector field for a solver: what it calls ``y`` is the adjoint a.

    One call of f and one product with its Jacobian. Where on the trajectory that is, is decided by host times, however
    narrow the dtype in which f is told the time.

    Attributes:
        check: is told, at every evaluation, what f gave and the state at which it was asked.
    """

    def __init__(self, field: Field, trajectory: Trajectory, check: Check) -> None:
        self.field, self.trajectory, self.check = field, trajectory, check

    @property
    def nfe(self) -> int:
        return self.field.nfe

    @property
    def jacobians(self) -> int:
        return self.field.jacobians

    def confined(self, section: Section) -> Transport:
        """The same between two discontinuities of f, counted together with this one."""
        return Transport(self.field.confined(section), self.trajectory, self.check)

    def times(self, values: Sequence[Time]) -> Sequence[Tensor]:
        """The times as they came: only f itself wants tensors."""
        return cast(Sequence[Tensor], values)

    def inside(self, t: Time) -> bool:
        return self.field.inside(t)

    def __call__(self, t: Time, y: Tensor) -> Tensor:
        with torch.enable_grad():
            state = self._state(t).requires_grad_()
            dy = self.field(t, state)
        self.check([dy], [state])
        pulled = None
        if dy.requires_grad:
            (pulled,) = torch.autograd.grad(dy, [state], y.detach().neg(), allow_unused=True, retain_graph=True)
        return torch.zeros_like(y) if pulled is None else pulled

    def rows_are_independent(self, t: Time, y: Tensor) -> bool:
        return self.field.rows_are_independent(t, self._state(t))

    def linearised(self, t: Time, y: Tensor, linear: Linear) -> Linearised:
        """-Jᴴ, which does not depend on the adjoint: a Newton iteration with it is over at once."""
        state = self._state(t)
        if isinstance(linear, Dense | Rows):
            return _turned(self.field.linearised(t, state, linear))
        self.field.count.jacobians += 1
        with torch.no_grad():
            pull = torch.func.vjp(functools.partial(self.field, self.field.times((host(t),))[0]), state)[1]
        return linear.linearised(lambda v: pull(v)[0].neg(), y)

    def expanded(self, t: Time, y: Tensor, rows: bool) -> Expanded:
        """To first order in time and in the adjoint; the trajectory's own motion has its part in the former."""
        state = self._state(t)
        with torch.enable_grad():
            time = self.field.times((host(t),))[0].requires_grad_()
            moving = state + self.trajectory.slope(host(t)) * (time - time.detach())
            dy = self.field(time, moving)
            pulled = None
            if dy.requires_grad:
                (pulled,) = torch.autograd.grad(dy, [moving], y.detach().neg(), allow_unused=True, create_graph=True)
        value = torch.zeros_like(y) if pulled is None else pulled
        (by_time,) = Products([value], [time]).along(torch.ones_like(time))
        matrix = _turned(self.field.linearised(t, state, Rows() if rows else Dense())).matrix
        return Expanded(value.detach(), torch.zeros_like(y) if by_time is None else by_time.detach(), matrix)

    def _state(self, t: Time) -> Tensor:
        return self.trajectory.state(host(t)).detach()


def _turned(jacobian: Linearised) -> Jacobian:
    return Jacobian(-cast(Jacobian, jacobian).matrix.mH)
