"""What a model has to prove."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from odekit.core.protocols import Classifier, DensityModel, Model, Tools
from odekit.errors import InputError, OdekitError
from odekit.testing.checks import Checks, Measured, NotApplicable
from odekit.testing.measure import apart

MODEL_CHECKS = Checks()
"""In the order in which they are reported."""

SHAPES: Mapping[str, Sequence[tuple[int, ...]]] = {
    "classification": ((1, 8, 8), (3, 32, 32), (6,)),
    "density": ((2,), (1, 4, 4), (1,)),
}
"""Shapes of samples that a model of a task is tried with; the first one that it takes is used."""

_CLASSES = 4
_BATCH = 6
_FAR = 5.5
"""Standard errors: a right model is farther off with a probability of 4e-8 a comparison. Seeds are fixed."""


def _tools() -> Tools:
    return Tools(gradient="checkpointed", trace="exact", rtol=1e-4, atol=1e-4)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@attrs.frozen(eq=False)
class ModelSubject:
    """A model class and what to build it for."""

    model: type[Model]
    shape: tuple[int, ...]
    options: Mapping[str, Any] = attrs.field(factory=dict)

    @classmethod
    def of(
        cls, model: type[Model], shape: tuple[int, ...] | None = None, options: Mapping[str, Any] | None = None
    ) -> ModelSubject:
        """The subject; without a shape it is that of the model's ``example``, or the first of :data:`SHAPES` it takes.

        Raises:
            InputError: it takes none of them.
        """
        options = {} if options is None else options
        if hasattr(model, "example"):
            x, _ = model.example()
            return cls(model, tuple(x.shape[1:]), options)
        if shape is not None:
            return cls(model, shape, options)
        refused = []
        for tried in SHAPES.get(model.task, ()):
            subject = cls(model, tried, options)
            try:
                subject.fresh()
            except InputError as error:
                refused.append(f"{tried}: {error}")
            else:
                return subject
        raise InputError(f"model {model.name!r} (task {model.task!r}) was built for no shape: {'; '.join(refused)}")

    def fresh(self, seed: int = 0, shape: tuple[int, ...] | None = None, **options: Any) -> Model:
        """A new model, whose random start is decided by the seed; the global generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            classes = _CLASSES if self.model.task == "classification" else None
            return self.model.build(shape or self.shape, classes, _tools(), **{**self.options, **options})

    def batch(self, seed: int = 0) -> tuple[Tensor, Tensor | None]:
        """Samples, and labels where the task has them; always the same ones where the model has an ``example``."""
        if hasattr(self.model, "example"):
            example: tuple[Tensor, Tensor | None] = self.model.example()
            return example
        x = torch.randn(_BATCH, *self.shape, generator=_generator(seed))
        labels = torch.arange(_BATCH) % _CLASSES if self.model.task == "classification" else None
        return x, labels

    def density(self) -> type[DensityModel]:
        """The class of a density model; leaves the check for another one."""
        if not issubclass(self.model, DensityModel):
            raise NotApplicable("it is no model of a density")
        return self.model

    def stirred(self, shape: tuple[int, ...]) -> DensityModel:
        """A density model whose parameters have been moved at random, so that it is not just its base."""
        self.density()
        try:
            model = self.fresh(shape=shape)
        except InputError as error:
            raise NotApplicable(f"it is not for samples of shape {shape}: {error}") from error
        assert isinstance(model, DensityModel)
        generator = _generator(5)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(_stirring(parameter) * torch.randn(parameter.shape, generator=generator))
        return model.eval()


def _stirring(parameter: Tensor) -> float:
    """How far to move a parameter: less in wide layers, whose outputs are sums of many terms."""
    inputs = parameter[0].numel() if parameter.ndim > 1 else 1
    return 0.15 * min(1.0, math.sqrt(16 / inputs))


def _answer(model: Model, x: Tensor, labels: Tensor | None = None) -> Tensor:
    """What the model says of samples, in evaluation mode; the loss, if its task is one that is not known here."""
    with torch.no_grad():
        if isinstance(model, DensityModel):
            return model.eval().log_prob(x, _generator())
        if not isinstance(model, Classifier):
            return model.eval().loss(x, labels, _generator())[0]
        out: Tensor = model.eval()(x)
        return out


@MODEL_CHECKS.add
def build(subject: ModelSubject) -> Measured:
    """It is built by its options, the same from the same seed, and refuses an option that it does not have."""
    one, two = subject.fresh().state_dict(), subject.fresh().state_dict()
    same = one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    try:
        subject.fresh(no_such_option=1)
    except OdekitError:
        refused = True
    else:
        refused = False
    said = f"{'the same' if same else 'another model'} from a seed, {'' if refused else 'not '}refused"
    return Measured(same and refused, said, "the same from a seed; an unknown option refused with an OdekitError")


@MODEL_CHECKS.add
def outputs(subject: ModelSubject) -> Measured:
    """Logits [B, classes], or log-densities [B] and samples [n, ...]; a finite scalar loss and numbers to report."""
    model, (x, labels) = subject.fresh(), subject.batch()
    wrong = []
    if isinstance(model, DensityModel):
        samples = model.sample(3, _generator())
        if samples.shape != (3, *subject.shape):
            wrong.append(f"sample(3) has shape {tuple(samples.shape)}")
    wanted = (_BATCH, _CLASSES) if isinstance(model, Classifier) else (_BATCH,)
    if isinstance(model, DensityModel | Classifier):
        answer = _answer(model, x)
        if answer.shape != wanted or not bool(answer.isfinite().all()):
            wrong.append(f"the answer to {_BATCH} samples has shape {tuple(answer.shape)}, expected {wanted}, finite")
    loss, told = model.train().loss(x, labels, _generator())
    if loss.ndim or not bool(loss.isfinite()):
        wrong.append(f"the loss has shape {tuple(loss.shape)} and is {loss.tolist()}")
    wrong += [f"{name} is no detached 0-d tensor" for name, x in told.items() if x.ndim or x.requires_grad]
    return Measured(not wrong, "; ".join(wrong) or "as they should be", "the shapes of its task, finite")


@MODEL_CHECKS.add
def gradient_flow(subject: ModelSubject) -> Measured:
    """After a few steps of training every parameter has had a gradient, finite and not zero."""
    model = subject.fresh().train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    moved: set[str] = set()
    for step in range(3):
        x, labels = subject.batch(step)
        optimiser.zero_grad()
        model.loss(x, labels, _generator(step))[0].backward()
        grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        moved |= {name for name, grad in grads.items() if grad is not None and bool((grad != 0).any())}
        broken = [name for name, grad in grads.items() if grad is not None and not bool(grad.isfinite().all())]
        if broken:
            return Measured(False, f"not finite: {', '.join(broken)}", "finite gradients")
        optimiser.step()
    still = sorted(grads.keys() - moved)
    return Measured(not still, f"{len(moved)} of {len(grads)}", "all parameters", f"none for {', '.join(still)}")


@MODEL_CHECKS.add
def state_dict(subject: ModelSubject) -> Measured:
    """A model that loads another one's state dict answers as that one does."""
    first, second = subject.fresh(0), subject.fresh(1)
    x, labels = subject.batch()
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.01)
    second.load_state_dict(first.state_dict())
    gap = apart(_answer(second, x, labels), _answer(first, x, labels))
    return Measured(gap == 0, f"{gap:.1e} apart", "the same to the last bit")


@MODEL_CHECKS.add
def moving(subject: ModelSubject) -> Measured:
    """All of it moves with .to(): no tensor is left behind on a device or in a dtype, and it works where it is."""
    left = [
        f"{name or 'model'}.{attribute}"
        for name, module in subject.fresh().to("meta").named_modules()
        for attribute, value in vars(module).items()
        if isinstance(value, Tensor) and not value.is_meta
    ]
    model = subject.fresh().double()
    x, labels = subject.batch()
    answer = _answer(model, x.double(), labels)
    if answer.dtype != torch.float64:
        left.append(f"the answer of model.double() is {answer.dtype}")
    if torch.cuda.is_available():
        there = _answer(subject.fresh().cuda(), x.cuda(), None if labels is None else labels.cuda())
        if not there.is_cuda or apart(there.cpu(), _answer(subject.fresh(), x, labels)) > 1e-2:
            left.append("on a CUDA device it answers otherwise")
    return Measured(not left, "; ".join(left) or "all of it", "nothing left behind")


@attrs.frozen(eq=False)
class _Table:
    """A density on a grid that covers it: points ``[N, D]``, log-densities ``[N]``, and the volume of a cell."""

    points: Tensor
    log_prob: Tensor
    cell: float

    @property
    def weights(self) -> Tensor:
        """What each point counts in an integral over the density."""
        return self.log_prob.double().exp() * self.cell

    @classmethod
    def of(cls, model: DensityModel, samples: Tensor, count: int) -> _Table:
        low, high = samples.min(0).values - 2.5, samples.max(0).values + 2.5
        axes = [torch.linspace(float(a), float(b), count) for a, b in zip(low, high, strict=True)]
        cell = math.prod(float(axis[1] - axis[0]) for axis in axes)
        points = torch.cartesian_prod(*axes).reshape(-1, len(axes))
        with torch.no_grad():
            return cls(points, model.log_prob(points, _generator()), cell)


_GRID = {1: 600, 2: 90}
_NEAR = 2e-3
"""How far an integral may be from 1, on a grid and at the tolerances of evaluation."""


def _integrated(subject: ModelSubject, dimension: int) -> Measured:
    model = subject.stirred((dimension,))
    with torch.no_grad():
        samples = model.sample(500, _generator())
    total = float(_Table.of(model, samples, _GRID[dimension]).weights.sum())
    return Measured(abs(total - 1) < _NEAR, f"{total:.5f}", f"1 ± {_NEAR}")


@MODEL_CHECKS.add
def integral(subject: ModelSubject) -> Measured:
    """The density integrates to one, on a line."""
    return _integrated(subject, 1)


@MODEL_CHECKS.add
def integral_in_the_plane(subject: ModelSubject) -> Measured:
    """The density integrates to one, in the plane."""
    return _integrated(subject, 2)


@MODEL_CHECKS.add
def samples_of_the_density(subject: ModelSubject) -> Measured:
    """Samples are of the density: averages over them are integrals over it, within 5.5 standard errors."""
    dimension = 2
    try:
        model = subject.stirred((dimension,))
    except NotApplicable:
        dimension = 1
        model = subject.stirred((dimension,))
    with torch.no_grad():
        samples = model.sample(4_000, _generator(7))
        found = _features(samples, model.log_prob(samples, _generator()))
    table = _Table.of(model, samples, _GRID[dimension])
    expected = (_features(table.points, table.log_prob) * table.weights[:, None]).sum(0) / table.weights.sum()
    standard = found.std(0) / math.sqrt(len(samples))
    scores = ((found.mean(0) - expected) / standard.clamp_min(1e-9)).abs()
    names = (*(f"x{k}" for k in range(dimension)), "|x|²", "x0³", "sin 2x0", "log p")
    worst = names[int(scores.argmax())]
    return Measured(float(scores.max()) < _FAR, f"{float(scores.max()):.1f} standard errors ({worst})", f"below {_FAR}")


def _features(x: Tensor, log_prob: Tensor) -> Tensor:
    x = x.double()
    first = x[:, :1]
    return torch.cat(
        [x, x.square().sum(1, keepdim=True), first**3, torch.sin(2 * first), log_prob.double()[:, None]], 1
    )
