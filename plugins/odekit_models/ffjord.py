"""Free-form continuous normalizing flows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import attrs
import torch
from torch import Tensor, nn

import odekit
from odekit.core import options as opt
from odekit.core.protocols import DensityModel, Tools
from odekit.errors import InputError
from odekit_models.cnf import CNF, PENALTIES
from odekit_models.time_layers import LAYERS, NONLINEARITIES, TimeMLP

_TRAIN = 1e-3
_EVAL = 1e-5


@attrs.frozen
class FFJORDOptions:
    """The flow's networks, its end time, what differs in evaluation, and the weights of its regularisers."""

    dims: tuple[int, ...] = opt.widths((64, 64, 64))
    layer: str = opt.choice("concatsquash", LAYERS)
    nonlinearity: str = opt.choice("tanh", NONLINEARITIES)
    blocks: int = opt.whole(1)
    end_time: float = opt.real(0.5, above=0)
    learn_end_time: bool = opt.switch(True)
    eval_trace: str = opt.choice("exact", ("exact", "train"))
    eval_rtol: float | None = opt.real(None, at_least=0)
    eval_atol: float | None = opt.real(None, at_least=0)
    kinetic: float = opt.real(0.0, at_least=0)
    frobenius: float = opt.real(0.0, at_least=0)


class FFJORD(DensityModel):
    """A density as a standard normal carried through ODEs, with unbiased log-densities and no limits on the network.

    Grathwohl et al. 2019, *FFJORD: free-form continuous dynamics for scalable reversible generative models*.

    Options: ``dims`` (hidden widths), ``layer`` (ignore, concat, concatcoord, squash, concatsquash, blend, hyper),
    ``nonlinearity`` (tanh, softplus, elu, relu, swish), ``blocks`` (flows in a row, each with its own network and end
    time), ``end_time`` and ``learn_end_time``, ``eval_trace`` (``exact``, or ``train``: that of training),
    ``eval_rtol`` and ``eval_atol``, and the weights ``kinetic`` and ``frobenius`` of the integrals of ``‖f‖²`` and
    ``‖∂f/∂z‖_F²`` in the loss.

    Tolerances that are not chosen are 1e-3 in training, which is enough for a gradient, and 1e-5 in evaluation, so that
    reported densities are those of the ODE; evaluation is never looser than training unless told so.
    """

    name = "ffjord"

    def __init__(self, shape: tuple[int, ...], flows: Sequence[CNF], weights: dict[str, float] | None = None) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.flows = nn.ModuleList(flows)
        self.weights = {name: weight for name, weight in (weights or {}).items() if weight}

    @classmethod
    def build(cls, shape: tuple[int, ...], classes: int | None, tools: Tools, **options: Any) -> FFJORD:
        """A fresh model of samples of any ``shape``; they are taken as vectors. Classes are not looked at.

        Raises:
            OptionError: an option is unknown, or a value does not fit.
            NameNotFound: no such trace estimator.
        """
        chosen = opt.read(FFJORDOptions, options, cls.name)
        training, evaluation = _modes(tools, chosen)
        flows = []
        for _ in range(chosen.blocks):
            field = TimeMLP(math.prod(shape), chosen.dims, chosen.layer, chosen.nonlinearity)
            flows.append(CNF(field, training, evaluation, chosen.end_time, chosen.learn_end_time))
        return cls(shape, flows, {name: getattr(chosen, name) for name in PENALTIES})

    def log_prob(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """log p(x) in nats ``[B]``, for ``x [B, *shape]``; unbiased where the trace is estimated."""
        return self._flow(x, generator, ())[0]

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """``n`` samples ``[n, *shape]``, on the device and in the dtype of the parameters."""
        like = next(self.parameters())
        device = like.device if generator is None else generator.device
        size = math.prod(self.shape)
        z = torch.randn(n, size, generator=generator, dtype=like.dtype, device=device).to(like.device)
        for flow in reversed(self._chain):
            z = flow.inverse(z)
        return z.reshape(n, *self.shape)

    def loss(
        self, x: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean of -log p(x), plus the weighted means of the regularisers; labels are not looked at."""
        log_prob, penalties = self._flow(x, generator, tuple(self.weights))
        nll = -log_prob.mean()
        means = {name: integral.mean() for name, integral in penalties.items()}
        loss = nll + sum(weight * means[name] for name, weight in self.weights.items())
        return loss, {"nll": nll.detach(), **{name: mean.detach() for name, mean in means.items()}}

    @property
    def _chain(self) -> list[CNF]:
        return cast("list[CNF]", list(self.flows))

    def _vectors(self, x: Tensor) -> Tensor:
        dtype = next(self.parameters()).dtype
        if x.shape[1:] != self.shape or x.ndim == 0 or x.dtype != dtype:
            raise InputError(
                f"x has shape {tuple(x.shape)} and is {x.dtype}; this model is of samples of shape {self.shape} "
                f"in {dtype}: give [B, {', '.join(map(str, self.shape))}] of that dtype"
            )
        return x.reshape(len(x), math.prod(self.shape))

    def _flow(
        self, x: Tensor, generator: torch.Generator | None, penalties: tuple[str, ...]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        z = self._vectors(x)
        log_volume = z.new_zeros(z.shape[0])
        totals = dict.fromkeys(penalties, log_volume)
        for flow in self._chain:
            transport = flow(z, generator, penalties)
            z = transport.z
            log_volume = log_volume + transport.log_volume
            totals = {name: total + transport.penalties[name] for name, total in totals.items()}
        return standard_normal(z) + log_volume, totals


def _modes(tools: Tools, chosen: FFJORDOptions) -> tuple[Tools, Tools]:
    """The tools of training and those of evaluation."""
    rtol, atol = _or(tools.rtol, _TRAIN), _or(tools.atol, _TRAIN)
    training = attrs.evolve(tools, rtol=rtol, atol=atol)
    evaluation = attrs.evolve(
        tools,
        rtol=_or(chosen.eval_rtol, min(_EVAL, rtol)),
        atol=_or(chosen.eval_atol, min(_EVAL, atol)),
        trace="exact" if chosen.eval_trace == "exact" else tools.trace,
    )
    return training, evaluation


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def standard_normal(z: Tensor) -> Tensor:
    """Its log-density at ``z [B, D]``: ``[B]``."""
    return -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi))


@odekit.hookimpl
def register_models(register: Callable[[Any], None]) -> None:
    register(FFJORD)
