"""The trace of a Jacobian: exact, and by random probes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

import odekit
from odekit.core.protocols import TraceEstimator
from odekit.errors import InputError, OptionError, nearest
from odekit_traces.products import Field, form, form_and_square, measured, unit_vectors


def _count(instance: Any, attribute: Any, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise OptionError(f"{instance.name}: {attribute.name}={value!r}; expected a whole number, at least 1")


@attrs.frozen
class Exact(TraceEstimator):
    """The trace itself, as the sum of the diagonal of the Jacobian; costs as many products as a sample has numbers.

    The D products are formed in batches of ``chunk`` unit vectors, from one evaluation of f; memory grows with
    ``chunk``. Small chunks stay in a processor's cache, ``chunk=None`` forms all products at once.
    """

    chunk: int | None = attrs.field(default=8, validator=attrs.validators.optional(_count))  # type: ignore[arg-type]

    name: ClassVar[str] = "exact"
    exact: ClassVar[bool] = True

    def products(self, size: int) -> int:
        """One for each number of a row."""
        return size

    def __call__(self, f: Field, t: Tensor, y: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(f(t, y), tr ∂f/∂y)``, shapes ``[B, ...]`` and ``[B]``. Noise is not needed, and not looked at.

        Raises:
            InputError: ``y`` is not a real state ``[B, ...]``.
            DynamicsError: f returned another shape.
        """
        dy, (diagonal,) = measured(f, t, y, unit_vectors(y), form, self.chunk)
        return dy, diagonal.sum(0)

    def with_frobenius(
        self, f: Field, t: Tensor, y: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``(f(t, y), tr ∂f/∂y, ‖∂f/∂y‖_F²)``, all exact."""
        dy, (diagonal, squares) = measured(f, t, y, unit_vectors(y), form_and_square, self.chunk)
        return dy, diagonal.sum(0), squares.sum(0)


@attrs.frozen
class Hutchinson(TraceEstimator):
    """An unbiased estimate of the trace from random probes: the mean of eᵀJe, at one product a probe.

    E[eᵀJe] = tr J for independent entries of mean 0 and variance 1 (Hutchinson 1989, *A stochastic estimator of the
    trace of the influence matrix for Laplacian smoothing splines*). The noise is drawn once and held for a whole solve,
    so that the solver sees a smooth right-hand side, and the integral of the trace stays unbiased (Grathwohl et al.
    2019, *FFJORD*, equations 7 and 8).

    With S = (J + Jᵀ)/2 and m probes the variance is

    - Rademacher: 2 (‖S‖_F² - Σ s_ii²) / m, zero for a diagonal Jacobian;
    - Gaussian: 2 ‖S‖_F² / m.

    Attributes:
        noise: ``"rademacher"`` (signs) or ``"gaussian"``.
        probes: how many probes are averaged.
    """

    noise: str = attrs.field(default="rademacher")
    probes: int = attrs.field(default=1, validator=_count)

    name: ClassVar[str] = "hutchinson"
    exact: ClassVar[bool] = False

    @noise.validator
    def _known(self, attribute: attrs.Attribute[str], value: str) -> None:
        if value not in _DRAW:
            raise OptionError(f"hutchinson: noise={value!r} is not known. {nearest(str(value), _DRAW)}")

    def variance(self, jacobian: Tensor) -> Tensor:
        """The formula above, ``[B]``."""
        symmetric = (jacobian + jacobian.mT) / 2
        total = symmetric.square().sum((-2, -1))
        if self.noise == "rademacher":
            total = total - symmetric.diagonal(dim1=-2, dim2=-1).square().sum(-1)
        return 2 * total / self.probes

    def products(self, size: int) -> int:
        """One for each probe."""
        return self.probes

    def draw(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Noise ``[probes, B, ...]`` for a batch like ``y [B, ...]``, in its dtype and on its device.

        Drawn on the device of ``generator``, so that one seed gives the same noise wherever ``y`` is.
        """
        device = y.device if generator is None else generator.device
        return _DRAW[self.noise]((self.probes, *y.shape), y.dtype, device, generator).to(y.device)

    def __call__(self, f: Field, t: Tensor, y: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(f(t, y), estimate)``, shapes ``[B, ...]`` and ``[B]``; ``noise`` is what :meth:`draw` gave for the solve.

        Raises:
            InputError: the noise is missing or is for another batch, or ``y`` is not a real state ``[B, ...]``.
            DynamicsError: f returned another shape.
        """
        dy, (forms,) = measured(f, t, y, _checked(noise, y), form)
        return dy, forms.mean(0)

    def with_frobenius(
        self, f: Field, t: Tensor, y: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``(f(t, y), estimate, mean of ‖eᵀJ‖²)``; the last estimates ‖∂f/∂y‖_F² without bias, because E[eeᵀ] = I."""
        dy, (forms, squares) = measured(f, t, y, _checked(noise, y), form_and_square)
        return dy, forms.mean(0), squares.mean(0)


def _rademacher(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, generator: torch.Generator | None
) -> Tensor:
    return torch.randint(2, shape, dtype=dtype, device=device, generator=generator) * 2 - 1


def _gaussian(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, generator: torch.Generator | None
) -> Tensor:
    return torch.randn(shape, dtype=dtype, device=device, generator=generator)


_DRAW = {"rademacher": _rademacher, "gaussian": _gaussian}


def _checked(noise: Tensor | None, y: Tensor) -> Tensor:
    if noise is None:
        raise InputError("hutchinson has no noise; draw it once for the solve: noise=estimator.draw(y, generator)")
    if noise.shape[1:] != y.shape:
        raise InputError(
            f"the noise has shape {tuple(noise.shape)}; expected [probes, *y.shape] with y of shape {tuple(y.shape)}"
        )
    return noise


@odekit.hookimpl
def register_trace_estimators(register: Callable[[Any], None]) -> None:
    register(Exact)
    register(Hutchinson)
