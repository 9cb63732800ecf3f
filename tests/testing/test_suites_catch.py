"""Each way of being wrong is caught by the check that is there for it, and what is right passes them all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import wrong
from torch import Tensor, nn

from odekit.core.protocols import Classifier, Data, Dataset, DensityModel, Model, Split, Tools
from odekit.testing import SUITES, Finding, Verdict, examine


def found(kind: str, thing: Any, *names: str, **options: Any) -> dict[str, Finding]:
    """The findings of some checks, or of all."""
    suite = SUITES[kind]
    subject = suite.subject(thing, **options)
    return {check.name: check.run(subject) for check in suite.checks if not names or check.name in names}


def fails(kind: str, thing: Any, check: str, **options: Any) -> None:
    finding = found(kind, thing, check, **options)[check]
    assert finding.verdict is Verdict.FAILED, finding


def holds(kind: str, thing: Any, check: str, **options: Any) -> None:
    finding = found(kind, thing, check, **options)[check]
    assert finding.verdict is Verdict.PASSED, finding


def test_the_right_solver_of_the_same_making_passes() -> None:
    report = examine("solver", "by-hand", wrong.ByHand)
    assert report.verdict is Verdict.PASSED, report.failures
    assert report.number("order") == pytest.approx(3, abs=0.1)
    assert len([finding for finding in report.findings if finding.verdict is Verdict.PASSED]) >= 16


SOLVERS = [
    (wrong.OneCoefficient, "order"),
    (wrong.SlightlyOff, "order"),
    (wrong.OneWeight, "order"),
    (wrong.StageTimes, "order-in-time"),
    (wrong.StageTimes, "order-backwards"),
    (wrong.Straight, "dense-order"),
    (wrong.OpenEnded, "dense-ends"),
    (wrong.WrongEstimate, "error-order"),
    (wrong.Remembers, "pure"),
    (wrong.Remembers, "no-state"),
    (wrong.Notes, "no-state"),
    (wrong.PastTheEnd, "inside-the-span"),
    (wrong.Mutates, "inputs-untouched"),
    (wrong.Calls, "counts"),
    (wrong.Doubles, "single-precision"),
    (wrong.RealOnly, "complex-states"),
    (wrong.Mixes, "rows-alone"),
    (wrong.Ignores, "failures"),
    (wrong.Detaches, "gradient"),
    (wrong.Shortens, "shortcuts"),
]


@pytest.mark.parametrize(("solver", "check"), SOLVERS, ids=lambda x: getattr(x, "__name__", x))
def test_a_wrong_solver_is_caught(solver: Any, check: str) -> None:
    fails("solver", solver, check)


def test_an_autonomous_problem_alone_would_not_catch_wrong_stage_times() -> None:
    holds("solver", wrong.StageTimes, "order")


@pytest.mark.parametrize(
    ("method", "check"),
    [(wrong.OffOnOneParameter, "gradient"), (wrong.Forgetful, "gradient"), (wrong.Greedy, "memory")],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_a_wrong_gradient_method_is_caught(method: Any, check: str) -> None:
    fails("gradient", method, check)


def test_the_parameter_whose_gradient_is_off_is_named() -> None:
    assert "(bias)" in found("gradient", wrong.OffOnOneParameter, "gradient")["gradient"].measured


def test_the_right_trace_of_the_same_making_passes() -> None:
    report = examine("trace", "probe", wrong.Probe)
    assert report.verdict is Verdict.PASSED, report.failures


@pytest.mark.parametrize(
    ("trace", "check"),
    [
        (wrong.Biased, "unbiased"),
        (wrong.OneRowBiased, "unbiased"),
        (wrong.Noisy, "variance"),
        (wrong.Costly, "cost"),
        (wrong.Global, "noise-of-a-generator"),
        (wrong.NotExact, "exact"),
    ],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_a_wrong_trace_is_caught(trace: Any, check: str) -> None:
    fails("trace", trace, check)


# Models


class Gaussian(DensityModel):
    """A normal density with a mean and a scale for each axis."""

    name = "gaussian"
    volume = 1.0
    spread = 1.0

    def __init__(self, size: int) -> None:
        super().__init__()
        self.mean, self.log_scale = nn.Parameter(torch.randn(size)), nn.Parameter(torch.zeros(size))

    @classmethod
    def build(cls, shape: tuple[int, ...], classes: int | None, tools: Tools) -> Gaussian:
        if len(shape) != 1:
            raise wrong_shape(shape)
        return cls(shape[0])

    def log_prob(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        normal = torch.distributions.Normal(self.mean, self.log_scale.exp())
        return self.volume * normal.log_prob(x).sum(1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        z = torch.randn(n, len(self.mean), generator=generator, dtype=self.mean.dtype)
        return self.mean + self.spread * self.log_scale.exp() * z


def wrong_shape(shape: tuple[int, ...]) -> Exception:
    from odekit.errors import InputError

    return InputError(f"vectors only, not {shape}")


class Unnormalised(Gaussian):
    volume = 0.95


class OtherSamples(Gaussian):
    spread = 1.1


class Dead(Gaussian):
    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.unused = nn.Parameter(torch.zeros(2))


class Stays(Gaussian):
    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.offset = torch.zeros(size)


class Swallows(Gaussian):
    @classmethod
    def build(cls, shape: tuple[int, ...], classes: int | None, tools: Tools, **options: Any) -> Gaussian:
        return super().build(shape, classes, tools)


class Flat(Classifier):
    """Logits for one class too many."""

    name = "flat"

    def __init__(self, size: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, classes + 1)

    @classmethod
    def build(cls, shape: tuple[int, ...], classes: int | None, tools: Tools) -> Flat:
        return cls(int(torch.Size(shape).numel()), classes or 0)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x.flatten(1))
        return out


@pytest.mark.parametrize(
    ("model", "check"),
    [
        (Unnormalised, "integral"),
        (Unnormalised, "integral-in-the-plane"),
        (OtherSamples, "samples-of-the-density"),
        (Dead, "gradient-flow"),
        (Stays, "moving"),
        (Flat, "outputs"),
    ],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_a_wrong_model_is_caught(model: Any, check: str) -> None:
    fails("model", model, check)


def test_a_model_that_takes_any_option_is_caught_and_the_right_one_is_not() -> None:
    class Refuses(Gaussian):
        @classmethod
        def build(cls, shape: tuple[int, ...], classes: int | None, tools: Tools, **options: Any) -> Gaussian:
            if options:
                raise wrong_shape(())
            return super().build(shape, classes, tools)

    fails("model", Swallows, "build")
    report = examine("model", "refuses", Refuses)
    assert report.verdict is Verdict.PASSED, report.failures


class Successor(Model):
    """A model of a task of its own: the next number of a sequence."""

    name, task = "successor", "sequences"

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size - 1, 1)

    @classmethod
    def build(cls, shape: tuple[int, ...], classes: int | None, tools: Tools, **options: Any) -> Successor:
        if options:
            raise wrong_shape(())
        return cls(*shape)

    @staticmethod
    def example() -> tuple[Tensor, None]:
        return torch.arange(12.0).reshape(3, 4), None

    def loss(
        self, x: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return (self.linear(x[:, :-1]) - x[:, -1:]).square().mean(), {}


class Forgets(Successor):
    """What it answers depends on more than its state dict has."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.register_buffer("scale", torch.rand(()) + 1, persistent=False)

    def loss(self, x: Tensor, *rest: Any) -> tuple[Tensor, dict[str, Tensor]]:
        loss, told = super().loss(x)
        return self.scale * loss, told


class StaysBehind(Successor):
    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.offset = torch.zeros(size)


def test_a_model_of_a_task_of_its_own_is_tried_on_its_example() -> None:
    report = examine("model", "successor", Successor)
    assert report.verdict is Verdict.PASSED, report.failures
    passed = {finding.check for finding in report.findings if finding.verdict is Verdict.PASSED}
    assert passed == {"build", "outputs", "gradient-flow", "state-dict", "moving"}
    fails("model", Forgets, "state-dict")
    fails("model", StaysBehind, "moving")


# Dynamics and datasets


class Field(nn.Module):
    name = "field"

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.linear(y)) * torch.cos(t)


def test_right_dynamics_pass() -> None:
    report = examine("dynamics", "field", Field)
    assert report.verdict is Verdict.PASSED, report.failures


@pytest.mark.parametrize(
    ("dynamics", "check"),
    [(wrong.Left, "gradient-flow"), (wrong.InPlace, "inputs-untouched"), (wrong.Dropping, "deterministic")],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_wrong_dynamics_are_caught(dynamics: Any, check: str) -> None:
    fails("dynamics", dynamics, check)


def test_dynamics_of_a_nested_state_say_what_it_is() -> None:
    class Pair:
        name = "pair"

        def example(self) -> tuple[Tensor, Tensor]:
            return torch.ones(3, 2), torch.zeros(3)

        def __call__(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return -y[0], y[0].sum(1)

    report = examine("dynamics", "pair", Pair)
    assert report.verdict is Verdict.PASSED, report.failures


class Numbers(Dataset):
    name = "numbers"
    task = "density"
    leak = 0

    @classmethod
    def load(cls, folder: Any, seed: int) -> Data:
        x = cls.draw(seed)
        return Data(Split(x[:60]), Split(x[60:80]), Split(x[80 - cls.leak :]), (3,))

    @staticmethod
    def draw(seed: int) -> Tensor:
        return torch.randn(100, 3, generator=torch.Generator().manual_seed(seed))


class Leaks(Numbers):
    leak = 2


class Moody(Numbers):
    @staticmethod
    def draw(seed: int) -> Tensor:
        return torch.randn(100, 3)


class Shapeless(Numbers):
    @staticmethod
    def draw(seed: int) -> Tensor:
        return Numbers.draw(seed)[:, :2]


@pytest.mark.parametrize(
    ("dataset", "check"), [(Leaks, "disjoint"), (Moody, "deterministic"), (Shapeless, "shapes")],
    ids=lambda x: getattr(x, "__name__", x),
)  # fmt: skip
def test_a_wrong_dataset_is_caught(dataset: Any, check: str) -> None:
    fails("dataset", dataset, check)
    holds("dataset", Numbers, check)


def test_files_are_compared_with_their_checksums(tmp_path: Any) -> None:
    """A dataset that looks at its files passes where they are there; one that does not is caught."""
    import hashlib

    from odekit.errors import DataError

    content = b"".join(bytes([k % 251]) for k in range(400))

    class Filed(Numbers):
        files = {"rows.bin": hashlib.sha256(content).hexdigest()}  # noqa: RUF012
        looks = True

        @classmethod
        def load(cls, folder: Any, seed: int) -> Data:
            place = folder / "numbers" / "rows.bin"
            found = (place if place.exists() else folder / "rows.bin").read_bytes()
            if cls.looks and hashlib.sha256(found).hexdigest() != cls.files["rows.bin"]:
                raise DataError("damaged")
            return super().load(folder, seed)

    class Trusts(Filed):
        looks = False

    (skipped,) = found("dataset", Filed, "checksums").values()
    assert skipped.verdict is Verdict.SKIPPED
    assert "rows.bin not in the data folder" in skipped.detail
    (tmp_path / "rows.bin").write_bytes(content)
    holds("dataset", Filed, "checksums", folder=tmp_path)
    fails("dataset", Trusts, "checksums", folder=tmp_path)
