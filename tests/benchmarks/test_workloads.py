"""The workloads: what odekit answers is what SciPy and the reference answer, and the names lead to cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from benchmarks.competitors import Unfit
from benchmarks.competitors.in_torch import common_times
from benchmarks.competitors.limit import prepare as limit
from benchmarks.competitors.odekit_eager import prepare as odekit_eager
from benchmarks.competitors.odekit_eager import solving
from benchmarks.reference import reference, relative_error
from benchmarks.targets import TARGETS
from benchmarks.workloads import CASES, MEASURED, matching
from benchmarks.workloads.work import Work

QUICK = ("W1", "W2a", "W2d", "W2c", "W6l", "batch-16")


def by_scipy(work: Work) -> torch.Tensor:
    """The state at the end, in float64, by a method and code of SciPy's own."""
    exact = work.to("cpu", torch.float64)

    def f(t: float, y: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return exact.f(torch.tensor(t), torch.from_numpy(y).reshape(exact.y0.shape), *exact.args).numpy().ravel()

    t = exact.t.numpy()
    found = solve_ivp(f, (t[0], t[-1]), exact.y0.numpy().ravel(), method="DOP853", rtol=1e-9, atol=1e-11)
    return torch.from_numpy(found.y[:, -1])


@pytest.mark.parametrize("case", ["W1", "W6l"])
def test_the_reference_is_what_scipy_finds(case: str) -> None:
    work = CASES[case]()
    assert relative_error(reference(work), by_scipy(work)) < 1e-7


@pytest.mark.parametrize("case", QUICK)
def test_odekit_gives_the_reference_to_the_tolerance(case: str, tmp_path: Path) -> None:
    runner = odekit_eager(case, "cpu", (0, 0))
    forward, backward = runner.answer(tmp_path / "answer.npy")
    answer = torch.from_numpy(np.load(tmp_path / "answer.npy"))
    assert relative_error(answer, reference(CASES[case]())) < 1e-4
    assert forward > 0
    assert (backward > 0) == (CASES[case]().gradient in ("adjoint", "checkpointed"))


def test_the_limit_makes_the_calls_it_is_told() -> None:
    plain = limit("W1", "cpu", (26, 0))
    adjoint = limit("W2a", "cpu", (26, 38))
    exact = limit("W2d", "cpu", (26, 0))
    assert [(one.plain, one.with_vjp) for one in (plain, adjoint, exact)] == [(26, 0), (26, 38), (0, 26)]
    with pytest.raises(Unfit, match="how often"):
        limit("W1", "cpu", (0, 0))


def test_an_option_that_is_not_there_is_no_failure() -> None:
    with pytest.raises(Unfit, match="no nonesuch= yet"):
        solving(nonesuch=True)(CASES["W1"]())


def test_beginnings_of_names_stand_for_several_cases() -> None:
    assert matching(["W3h"]) == ["W3ha", "W3hd", "W3hc"]
    assert matching(["W1", "W2", "W2a"]) == ["W1", "W2a", "W2d", "W2c"]
    assert matching(["batch-16"]) == ["batch-16"]
    with pytest.raises(SystemExit, match="W9"):
        matching(["W9"])


def test_a_case_has_its_name_and_is_always_the_same() -> None:
    for name in MEASURED:
        if not name.startswith("W8"):
            one, other = CASES[name](), CASES[name]()
            assert one.name == name
            assert torch.equal(one.y0, other.y0)


def test_every_target_is_of_a_case() -> None:
    assert {target.case for target in TARGETS} <= set(MEASURED)


def test_times_of_rows_are_found_again_in_common_ones() -> None:
    t = torch.tensor([[0.0, 0.3, 1.0], [0.0, 0.5, 1.0]])
    times, pick = common_times(t)
    assert times.tolist() == pytest.approx([0.0, 0.3, 0.5, 1.0])
    ys = times[:, None, None] * torch.tensor([[1.0], [10.0]])
    assert torch.allclose(pick(ys)[..., 0], t.T * torch.tensor([1.0, 10.0]))
