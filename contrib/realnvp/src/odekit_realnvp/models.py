"""Densities from chains of couplings, and the hook that gives them to odekit."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, cast

import attrs
import torch
from torch import Tensor, nn

import odekit
from odekit.core import options as opt
from odekit.core.protocols import DensityModel, Tools
from odekit.errors import InputError
from odekit_realnvp.actnorm import ActNorm
from odekit_realnvp.bijection import Bijection
from odekit_realnvp.coupling import NONLINEARITIES, AffineCoupling
from odekit_realnvp.lu_linear import LULinear


@attrs.frozen
class CouplingOptions:
    """How many couplings, their networks, and the largest log-scale of each."""

    couplings: int = opt.whole(8)
    dims: tuple[int, ...] = opt.widths((64, 64))
    nonlinearity: str = opt.choice("tanh", NONLINEARITIES)
    limit: float = opt.real(2.0, above=0)


class CouplingFlow(DensityModel):
    """A standard normal density seen through a chain of bijections; log-densities and samples are exact.

    Subclasses say what the chain is.
    """

    solves = False
    started: Tensor

    def __init__(self, shape: tuple[int, ...], chain: Sequence[Bijection]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.chain = nn.ModuleList(chain)
        self.register_buffer("started", torch.tensor(False))

    @staticmethod
    @abstractmethod
    def chain_of(size: int, options: CouplingOptions) -> list[Bijection]:
        """The bijections for vectors of ``size`` numbers, from the data's side."""

    @classmethod
    def build(cls, shape: tuple[int, ...], classes: int | None, tools: Tools, **options: Any) -> CouplingFlow:
        """A fresh model of samples of any ``shape``, taken as vectors. Classes and tools are not looked at.

        Raises:
            InputError: samples of a single number, of which there are none to keep and others to move.
            OptionError: an option is unknown, or a value does not fit.
        """
        chosen = opt.read(CouplingOptions, options, cls.name)
        size = math.prod(shape)
        if size < 2:
            raise InputError(f"{cls.name} couples the entries of a sample, which needs two of them; got shape {shape}")
        return cls(shape, cls.chain_of(size, chosen))

    def log_prob(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """log p(x) in nats ``[B]``, for ``x [B, *shape]``: that of z, plus log |det ∂z/∂x|. Nothing is drawn.

        The first batch in training decides how the activations are normalised, where they are.
        """
        z = self._vectors(x)
        if self.training and not bool(self.started):
            self._start(z)
        log_volume = z.new_zeros(len(z))
        for bijection in self._bijections:
            z, log_det = bijection(z)
            log_volume = log_volume + log_det
        return -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi)) + log_volume

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """``n`` samples ``[n, *shape]``, on the device and in the dtype of the parameters."""
        like = next(self.parameters())
        device = like.device if generator is None else generator.device
        size = math.prod(self.shape)
        z = torch.randn(n, size, generator=generator, dtype=like.dtype, device=device).to(like.device)
        for bijection in reversed(self._bijections):
            z = bijection.inverse(z)
        return z.reshape(n, *self.shape)

    @property
    def _bijections(self) -> list[Bijection]:
        return cast("list[Bijection]", list(self.chain))

    @torch.no_grad()
    def _start(self, z: Tensor) -> None:
        for bijection in self._bijections:
            if isinstance(bijection, ActNorm):
                bijection.fit(z)
            z, _ = bijection(z)
        self.started.fill_(True)

    def _vectors(self, x: Tensor) -> Tensor:
        dtype = next(self.parameters()).dtype
        if x.ndim == 0 or x.shape[1:] != self.shape or x.dtype != dtype:
            raise InputError(
                f"x has shape {tuple(x.shape)} and is {x.dtype}; this model is of samples of shape {self.shape} "
                f"in {dtype}: give [B, {', '.join(map(str, self.shape))}] of that dtype"
            )
        return x.reshape(len(x), math.prod(self.shape))


class RealNVP(CouplingFlow):
    """Affine couplings that keep the even and the odd entries in turn.

    Dinh, Sohl-Dickstein & Bengio 2017, *Density estimation using Real NVP*, section 3, for vectors: without the
    multi-scale architecture, which is for images, and without batch normalisation.

    Options: ``couplings`` (how many), ``dims`` (hidden widths of their networks), ``nonlinearity`` (tanh, softplus,
    elu, relu, swish), ``limit`` (the largest log-scale of a coupling).
    """

    name = "realnvp"

    @staticmethod
    def chain_of(size: int, options: CouplingOptions) -> list[Bijection]:
        halves = [range(0, size, 2), range(1, size, 2)]
        turns = [halves if turn % 2 == 0 else halves[::-1] for turn in range(options.couplings)]
        return [_coupling(kept, moved, options) for kept, moved in turns]


class Glow(CouplingFlow):
    """Steps of activation normalisation, an invertible linear map, and a coupling that keeps the first half.

    Kingma & Dhariwal 2018, *Glow: generative flow with invertible 1×1 convolutions*, section 3, for vectors: the
    convolution is a matrix, and there is no multi-scale architecture. Options: see ``realnvp``.
    """

    name = "glow"

    @staticmethod
    def chain_of(size: int, options: CouplingOptions) -> list[Bijection]:
        half = size // 2
        chain: list[Bijection] = []
        for _ in range(options.couplings):
            chain += [ActNorm(size), LULinear(size), _coupling(range(half), range(half, size), options)]
        return chain


def _coupling(kept: Sequence[int], moved: Sequence[int], options: CouplingOptions) -> AffineCoupling:
    return AffineCoupling(kept, moved, options.dims, options.nonlinearity, options.limit)


@odekit.hookimpl
def register_models(register: Callable[[Any], None]) -> None:
    for model in (RealNVP, Glow):
        register(model)
