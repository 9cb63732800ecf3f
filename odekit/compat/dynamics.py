"""The caller's func as odekit calls it, and the callbacks that it carries."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from odekit.core.callbacks import Callbacks

_HOOKS = ("callback_step", "callback_accept_step", "callback_reject_step")
"""torchdiffeq's names for what odekit calls attempt, accept and reject."""


class Dynamics:
    """``func(t, y)`` with dy/dt in the dtype of y and, for a tuple, in the shapes of its parts."""

    def __init__(self, func: Callable[[Tensor, Any], Any]) -> None:
        self.func = func

    def __call__(self, t: Tensor, y: Any) -> Any:
        dy = self.func(t, y)
        if isinstance(y, tuple) and isinstance(dy, tuple | list) and len(dy) == len(y):
            return tuple(map(_like, dy, y))
        return _like(dy, y)


def _like(dy: Any, y: Any) -> Any:
    if not (isinstance(dy, Tensor) and isinstance(y, Tensor)):
        return dy
    if dy.dtype != y.dtype:
        dy = dy.to(y.dtype)
    return dy.reshape(y.shape) if dy.shape != y.shape and dy.numel() == y.numel() else dy


def callbacks_of(func: Any, supported: frozenset[str], dtype: torch.dtype, method: str, suffix: str = "") -> Callbacks:
    """The callbacks among the attributes of ``func``, each called as ``(t0, y0, dt)`` with times of this dtype.

    ``suffix`` is ``"_adjoint"`` for those of the backward solve. Callbacks that the method does not support are named
    in a warning, as in torchdiffeq.
    """
    found = {name: getattr(func, name + suffix) for name in _HOOKS if hasattr(func, name + suffix)}
    useless = sorted(found.keys() - supported)
    if useless:
        warnings.warn(f"Solver {method!r} does not support callbacks {useless}", stacklevel=5)
    attempt, accept, reject = (
        _told(found[name], dtype) if name in found and name in supported else None for name in _HOOKS
    )
    return Callbacks(attempt, accept, reject)


def _told(callback: Callable[..., Any], dtype: torch.dtype) -> Callable[[float, float, Any], None]:
    def tell(t0: float, t1: float, y0: Any) -> None:
        device = y0.device if isinstance(y0, Tensor) else y0[0].device
        start, size = (torch.tensor(value, dtype=dtype, device=device) for value in (t0, abs(t1 - t0)))
        callback(start, y0, size)

    return tell
