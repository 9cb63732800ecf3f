"""Moving what f depends on: the tensors that it uses, wherever it has them from, are shown to it with tangents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import optree
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from odekit.core.field import Field
from odekit.core.jacobian import Linearised
from odekit.core.linear import Linear
from odekit.core.times import Time
from odekit.gradients.captured import Posed, named_in_code


def used_by(problem: Posed) -> list[Tensor]:
    """The tensors that require grad and that f uses or may use, leaves or not; one call of f.

    Those in ``args``, those that a look at f's code finds, and those that one evaluation meets.
    """
    met, y0 = _Met(), problem.y0.detach().clone()
    with torch.enable_grad(), met:
        problem.field(problem.times[0], y0)
    leaves: list[Any] = optree.tree_leaves(cast(Any, problem.field.args), none_is_leaf=True)
    given = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
    return list({id(x): x for x in (*given, *met.foreign.values(), *named_in_code(problem.field.f))}.values())


class Moved(Field):
    """A field that sees other tensors in place of those that it uses, in whatever it does with them.

    What f does under ``torch.no_grad`` sees their values alone, so that a derivative in forward mode stops where one in
    reverse mode would.

    Attributes:
        shown: what it sees, by the id of what it uses.
        touched: the ids of the tensors that were indeed used so far.
    """

    def __init__(self, field: Field, used: Sequence[Tensor]) -> None:
        self.__dict__.update(field.__dict__)
        self.used = list(used)
        self.shown: dict[int, Tensor] = {}
        self.touched: set[int] = set()

    def showing(self, tensors: Sequence[Tensor]) -> Moved:
        """The same field, counted together with this one, with these in place of what it uses."""
        other = cast(Moved, self._copy())
        other.shown = {id(old): new for old, new in zip(self.used, tensors, strict=True)}
        return other

    def __call__(self, t: Time, y: Tensor) -> Tensor:
        with _Shown(self.shown, self.touched):
            return super().__call__(t, y)

    def linearised(self, t: Time, y: Tensor, linear: Linear) -> Linearised:
        return self.showing([x.detach() for x in self.used])._linearised(t, y.detach(), linear)

    def _linearised(self, t: Time, y: Tensor, linear: Linear) -> Linearised:
        return super().linearised(t, y, linear)


class _Met(TorchFunctionMode):
    """Takes note of the tensors that require grad and come from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.foreign: dict[int, Tensor] = {}
        self._made: dict[int, Tensor] = {}

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for x in optree.tree_leaves(cast(Any, (args, kwargs or {}))):
            if isinstance(x, Tensor) and x.requires_grad and id(x) not in self._made:
                self.foreign[id(x)] = x
        out = func(*args, **(kwargs or {}))
        for x in optree.tree_leaves(out):
            if isinstance(x, Tensor) and id(x) not in self.foreign:
                self._made[id(x)] = x
        return out


class _Shown(TorchFunctionMode):
    """Puts tensors in the place of others in every operation."""

    def __init__(self, shown: dict[int, Tensor], touched: set[int]) -> None:
        super().__init__()
        self.shown, self.touched = shown, touched

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        held = not torch.is_grad_enabled() or func is _DATA

        def seen(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            if id(x) in self.shown:
                if not held:
                    self.touched.add(id(x))
                x = self.shown[id(x)]
            return x.detach() if held else x

        args, kwargs = cast(Any, optree.tree_map(seen, cast(Any, (args, kwargs or {}))))
        return func(*args, **kwargs)


_DATA = Tensor.data.__get__  # type: ignore[attr-defined]
