"""What a vector field has to prove."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import attrs
import optree
import torch
from torch import Tensor, nn

from odekit.core.solution import Status
from odekit.errors import InputError
from odekit.solving import solve
from odekit.testing.checks import Checks, Measured, NotApplicable
from odekit.testing.measure import apart
from odekit.testing.probe import changes, snapshot

DYNAMICS_CHECKS = Checks()
"""In the order in which they are reported."""

_WIDTHS = (1, 2, 3, 4, 6, 8)
"""Of states ``[4, width]`` that dynamics are tried on which have no ``example``."""


@attrs.frozen(eq=False)
class DynamicsSubject:
    """A vector field and a state that it takes."""

    make: Callable[[], Any]
    y0: Any

    @classmethod
    def of(cls, given: Any, y0: Any = None) -> DynamicsSubject:
        """The subject for a class or an instance.

        Without a state it is what the method ``example()`` of the dynamics returns, or the narrowest of a few batches
        of random rows that they take.

        Raises:
            InputError: they take none of these.
        """
        make = given if isinstance(given, type) else lambda: given
        if y0 is not None:
            return cls(make, y0)
        f = _seeded(make)
        if hasattr(f, "example"):
            return cls(make, f.example())
        for width in _WIDTHS:
            state = torch.randn(4, width, generator=torch.Generator().manual_seed(0))
            try:
                with torch.no_grad():
                    if f(torch.tensor(0.3), state).shape == state.shape:
                        return cls(make, state)
            except Exception:
                continue
        raise InputError(
            f"{getattr(given, 'name', given)!r} takes no state [4, n] with n among {_WIDTHS}; "
            "give it a method example() that returns a state"
        )

    def fresh(self) -> Any:
        """The field; where it is a class, a new one, always of the same random start."""
        return _seeded(self.make)

    def state(self, dtype: torch.dtype | None = None) -> Any:
        """A copy of the state."""
        return _mapped(lambda leaf: leaf.detach().clone().to(dtype or leaf.dtype), self.y0)


def _seeded(make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def _mapped(function: Callable[[Tensor], Tensor], state: Any) -> Any:
    return optree.tree_map(function, state)


def _leaves(state: Any) -> list[Tensor]:
    return list(optree.tree_leaves(state))


def _time(state: Any, t: float = 0.3) -> Tensor:
    return torch.tensor(t, dtype=_leaves(state)[0].real.dtype)


@DYNAMICS_CHECKS.add
def shapes(subject: DynamicsSubject) -> Measured:
    """dy/dt has the nesting, shapes, dtype and device of y, in single and in double precision."""
    wrong = []
    for dtype in (torch.float32, torch.float64):
        f, y = subject.fresh(), subject.state(dtype)
        if isinstance(f, nn.Module):
            f = f.to(dtype)
        dy = f(_time(y), y)
        if optree.tree_structure(dy) != optree.tree_structure(y):
            wrong.append("dy/dt is nested otherwise")
            continue
        for one, other in zip(_leaves(dy), _leaves(y), strict=True):
            if (one.shape, one.dtype, one.device) != (other.shape, other.dtype, other.device):
                wrong.append(f"{tuple(one.shape)} {one.dtype} for y {tuple(other.shape)} {other.dtype}")
        if any(not bool(leaf.isfinite().all()) for leaf in _leaves(dy)):
            wrong.append(f"not finite in {dtype}")
    return Measured(not wrong, "; ".join(wrong) or "those of y", "those of y")


@DYNAMICS_CHECKS.add
def deterministic(subject: DynamicsSubject) -> Measured:
    """The same state and time give the same numbers, whatever was asked before; random numbers are not drawn."""
    f, y = subject.fresh(), subject.state()
    before = torch.random.get_rng_state()
    with torch.no_grad():
        one = f(_time(y), y)
        f(_time(y, 0.9), _mapped(lambda leaf: 0.5 * leaf, y))
        two = f(_time(y), y)
    same = all(torch.equal(a, b) for a, b in zip(_leaves(one), _leaves(two), strict=True))
    drawn = not torch.equal(before, torch.random.get_rng_state())
    said = "random numbers were drawn" if drawn else "the same" if same else "other numbers"
    return Measured(same and not drawn, said, "the same")


@DYNAMICS_CHECKS.add
def inputs_untouched(subject: DynamicsSubject) -> Measured:
    """The state that it is handed is not changed, nor given back as dy/dt."""
    f, y = subject.fresh(), subject.state()
    before = snapshot(y)
    dy = f(_time(y), y)
    changed = changes(before, snapshot(y))
    shared = {leaf.data_ptr() for leaf in _leaves(y)} & {leaf.data_ptr() for leaf in _leaves(dy)}
    said = "changed" if changed else "y itself comes back" if shared else "unchanged"
    return Measured(not changed and not shared, said, "unchanged, and another tensor comes back")


@DYNAMICS_CHECKS.add
def gradient_flow(subject: DynamicsSubject) -> Measured:
    """Gradients reach every parameter and the state."""
    f, y = subject.fresh(), _mapped(lambda leaf: leaf.requires_grad_(), subject.state())
    named = dict(f.named_parameters()) if isinstance(f, nn.Module) else {}
    named = {name: parameter for name, parameter in named.items() if parameter.requires_grad}
    loss: Any = sum(leaf.abs().square().sum() for leaf in _leaves(f(_time(y), y)))
    if not loss.requires_grad:
        return Measured(False, "dy/dt has no gradient", "one for the state and every parameter")
    grads = torch.autograd.grad(loss, [*_leaves(y), *named.values()], allow_unused=True)
    without = [name for name, grad in zip(named, grads[len(_leaves(y)) :], strict=True) if grad is None]
    return Measured(not without, f"{len(named) - len(without)} of {len(named)} parameters", "all", ", ".join(without))


@DYNAMICS_CHECKS.add
def solvable(subject: DynamicsSubject) -> Measured:
    """It can be solved over [0, 1], and a solve does not change it."""
    f, y = subject.fresh(), subject.state()
    with torch.no_grad():
        solution = solve(f, y, [0.0, 1.0], rtol=1e-3, atol=1e-3, max_steps=5_000, throw=False)
        again = solve(f, y, [0.0, 1.0], rtol=1e-3, atol=1e-3, max_steps=5_000, throw=False)
    gap = max(apart(a, b) for a, b in zip(_leaves(solution.y1), _leaves(again.y1), strict=True))
    status = cast(Status, solution.status)
    said = f"{status.name}, {gap:.1e} apart when solved again"
    return Measured(status.ok and gap == 0, said, "SUCCESS, the same when solved again")


@DYNAMICS_CHECKS.add
def state_dict(subject: DynamicsSubject) -> Measured:
    """A module that loads another one's state dict gives what that one gives."""
    first, second = subject.fresh(), subject.fresh()
    if not isinstance(first, nn.Module) or first is second:
        raise NotApplicable("it is no class of nn.Module")
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.01)
        second.load_state_dict(first.state_dict())
        y = subject.state()
        pairs = zip(_leaves(first(_time(y), y)), _leaves(second(_time(y), y)), strict=True)
        gap = max(apart(one, other) for one, other in pairs)
    return Measured(gap == 0, f"{gap:.1e} apart", "the same to the last bit")
