"""The integration loop by itself: a solver and a control that follow a script, and no numerics."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import torch
from problems import DOUBLE

from odekit.core.accepted import Accepted
from odekit.core.field import Field
from odekit.core.integrate import integrate
from odekit.core.protocols import ODESolver, Outcome, Proposal, Step, StepControl, Verdict
from odekit.core.solution import Status
from odekit.core.state import TensorLayout
from odekit.core.times import Clock
from odekit.core.tolerance import Tolerance


@attrs.frozen(eq=False)
class Walk(ODESolver):
    """Adds the length of the step to y; its carry counts the steps on the accepted path."""

    name = "walk"
    order = 1
    taken: list[tuple[float, float]] = attrs.field(factory=list)
    interpolated: list[float] = attrs.field(factory=list)

    def init(self, f: Any, t0: Any, y0: Any, f0: Any = None) -> int:
        return 0

    def step(self, f: Any, t0: Any, t1: Any, y0: Any, carry: int) -> Step:
        self.taken.append((t0, t1))
        return Step(t0, t1, y0, y0 + (t1 - t0), carry=carry + 1)

    def densify(self, f: Any, step: Step) -> Step:
        return attrs.evolve(step, dense="dense")

    def interpolate(self, step: Step, theta: float) -> Any:
        assert step.dense == "dense"
        self.interpolated.append(theta)
        return step.y0 + theta * (step.t1 - step.t0)


@attrs.frozen
class Script(StepControl):
    """Begins with a step to ``first``, then gives one verdict after the other: (accept, next end[, status])."""

    first: float
    verdicts: list[tuple[Any, ...]]

    adaptive = True

    def start(self, f: Any, t0: Any, t1: Any, y0: Any, solver: Any, tolerance: Any, f0: Any = None) -> Proposal:
        return Proposal(self.first, 0)

    def judge(self, step: Step, t0: float, t1: float, solver: Any, tolerance: Any, carry: int) -> Verdict:
        accept, t_next, *status = self.verdicts[carry]
        return Verdict(accept, t_next, carry + 1, *status)


@attrs.frozen
class Halve(StepControl):
    """Never accepts, and halves."""

    adaptive = True

    def start(self, f: Any, t0: Any, t1: Any, y0: Any, solver: Any, tolerance: Any, f0: Any = None) -> Proposal:
        return Proposal(t1)

    def judge(self, step: Step, t0: float, t1: float, solver: Any, tolerance: Any, carry: Any) -> Verdict:
        return Verdict(False, t0 + (t1 - t0) / 2)


def run(solver: ODESolver, control: StepControl, times: list[float], max_steps: int = 100, **more: Any) -> Outcome:
    y0 = torch.full((1,), times[0], dtype=DOUBLE)
    f = Field(lambda t, y: torch.ones_like(y), (), TensorLayout(y0.shape), y0, (times[0], times[-1]))
    clock = Clock(tuple(times))
    return integrate(f, y0, clock, solver, control, Tolerance(1e-6, 1e-6), max_steps, **more)


def test_accepted_and_rejected_steps() -> None:
    solver = Walk()
    control = Script(0.3, [(True, 0.9), (False, 0.5), (True, 0.8), (True, 5.0), (True, 9.0)])
    outcome = run(solver, control, [0.0, 1.0])
    assert solver.taken == [(0.0, 0.3), (0.3, 0.9), (0.3, 0.5), (0.5, 0.8), (0.8, 1.0)]
    assert (outcome.stats.steps, outcome.stats.accepted, outcome.stats.rejected) == (5, 4, 1)
    assert outcome.status is Status.SUCCESS
    assert outcome.t1 == 1.0
    assert float(outcome.y1) == pytest.approx(1.0)
    assert outcome.step_size == pytest.approx(8.0)


def test_a_rejected_step_leaves_the_carry_alone() -> None:
    records: list[Accepted] = []
    control = Script(0.5, [(False, 0.4), (True, 0.7), (False, 0.6), (True, 1.0), (True, 2.0)])
    run(Walk(), control, [0.0, 1.0], on_accept=records.append)
    assert [record.carry for record in records] == [None, 1, 2]
    assert [record.fresh for record in records] == [True, False, False]
    assert [(record.t0, record.t1) for record in records] == [(0.0, 0.4), (0.4, 0.6), (0.6, 1.0)]
    torch.testing.assert_close(torch.cat([record.y0 for record in records]), torch.tensor([0.0, 0.4, 0.6]).double())


def test_backwards_in_time() -> None:
    solver = Walk()
    outcome = run(solver, Script(0.7, [(True, 0.1), (True, -3.0), (True, -9.0)]), [1.0, 0.5, 0.0])
    assert solver.taken == [(1.0, 0.7), (0.7, 0.1), (0.1, 0.0)]
    torch.testing.assert_close(outcome.ys[:, 0], torch.tensor([1.0, 0.5, 0.0], dtype=DOUBLE))


def test_outputs_do_not_cut_steps() -> None:
    solver = Walk()
    records: list[Accepted] = []
    times = [0.0, 0.1, 0.2, 0.5, 0.9, 1.0]
    outcome = run(solver, Script(0.5, [(True, 1.0), (True, 1.5)]), times, on_accept=records.append)
    assert solver.taken == [(0.0, 0.5), (0.5, 1.0)]
    assert solver.interpolated == pytest.approx([0.2, 0.4, 0.8])
    torch.testing.assert_close(outcome.ys[:, 0], torch.tensor(times, dtype=DOUBLE))
    assert [[slot.index for slot in record.slots] for record in records] == [[1, 2, 3], [4, 5]]
    assert [record.first for record in records] == [1, 4]


def test_outputs_that_repeat_are_all_there() -> None:
    times = [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]
    outcome = run(Walk(), Script(0.6, [(True, 1.0), (True, 2.0)]), times)
    torch.testing.assert_close(outcome.ys[:, 0], torch.tensor(times, dtype=DOUBLE))


@pytest.mark.parametrize("end", [1.0, 0.1 + 0.2, 1e6 + 0.1, -1e-9])
def test_the_last_step_ends_at_the_end_to_the_bit(end: float) -> None:
    solver = Walk()
    run(solver, Script(end / 2, [(True, end * 3), (True, end * 9)]), [0.0, end])
    assert solver.taken[-1][1] == end


def test_no_sliver_is_left_for_a_last_step() -> None:
    solver = Walk()
    run(solver, Script(0.995, [(True, 2.0)]), [0.0, 1.0])
    assert solver.taken == [(0.0, 1.0)]


def test_max_steps_counts_over_the_whole_solve_and_counts_rejected_ones() -> None:
    verdicts = [(True, 0.2), (False, 0.15), (True, 0.3), (True, 0.4), (True, 0.5)]
    outcome = run(Walk(), Script(0.1, verdicts), [0.0, 0.12, 0.2, 1.0], max_steps=4)
    assert outcome.status is Status.MAX_STEPS
    assert (outcome.stats.steps, outcome.stats.accepted) == (4, 3)
    assert outcome.t1 == 0.3
    assert float(outcome.y1) == pytest.approx(0.3)
    assert outcome.ys[:, 0].tolist() == pytest.approx([0.0, 0.12, 0.2])
    assert [slot.index for slot in outcome.slots] == [0, 1, 2]


def test_exactly_max_steps_are_allowed() -> None:
    outcome = run(Walk(), Script(0.5, [(True, 1.0), (True, 1.5)]), [0.0, 1.0], max_steps=2)
    assert outcome.status is Status.SUCCESS


@pytest.mark.parametrize("t0", [0.0, 1.0, -1e6])
def test_steps_below_the_resolution_of_time_underflow(t0: float) -> None:
    outcome = run(Walk(), Halve(), [t0, t0 + 1.0], max_steps=10_000)
    assert outcome.status is Status.STEP_UNDERFLOW
    assert outcome.stats.steps < 100
    assert outcome.stats.accepted == 0
    assert outcome.t1 == t0


@pytest.mark.parametrize("again", [0.5, 0.996])
def test_a_rejected_step_is_never_tried_again_as_it_was(again: float) -> None:
    """Whether the control asks for the same step, or for one that the end of the span makes the same."""
    outcome = run(Walk(), Script(1.0 if again > 0.9 else again, [(False, again)]), [0.0, 1.0])
    assert outcome.status is Status.STEP_UNDERFLOW
    assert outcome.stats.steps == 1


def test_what_was_wrong_with_the_last_rejected_step_is_why_the_solve_ends() -> None:
    control = Script(0.5, [(True, 0.7), (False, 0.6, Status.NON_FINITE), (False, 0.5, Status.NEWTON_DIVERGED)])
    outcome = run(Walk(), control, [0.0, 1.0])
    assert outcome.status is Status.NEWTON_DIVERGED
    assert outcome.t1 == 0.5


@pytest.mark.parametrize("reason", [Status.NON_FINITE, Status.NEWTON_DIVERGED, Status.STEP_UNDERFLOW])
def test_a_control_may_give_up(reason: Status) -> None:
    outcome = run(Walk(), Script(0.5, [(True, 0.7), (False, None, reason)]), [0.0, 1.0])
    assert outcome.status is reason
    assert (outcome.t1, outcome.stats.accepted, outcome.stats.rejected) == (0.5, 1, 1)


def test_giving_up_without_a_reason_is_an_underflow() -> None:
    assert run(Walk(), Script(0.5, [(False, None)]), [0.0, 1.0]).status is Status.STEP_UNDERFLOW


def test_having_nothing_more_to_propose_at_the_end_is_no_failure() -> None:
    outcome = run(Walk(), Script(1.0, [(True, None)]), [0.0, 1.0])
    assert outcome.status is Status.SUCCESS
    assert outcome.t1 == 1.0


def test_a_control_may_end_the_solve_before_its_first_step() -> None:
    class Refuse(Script):
        def start(self, *args: Any, **kwargs: Any) -> Proposal:
            return Proposal(0.0, status=Status.NON_FINITE)

    outcome = run(Walk(), Refuse(0.0, []), [0.0, 1.0])
    assert outcome.status is Status.NON_FINITE
    assert (outcome.t1, outcome.stats.steps) == (0.0, 0)


@pytest.mark.parametrize("times", [[2.0], [2.0, 2.0, 2.0]])
def test_a_span_of_nothing_takes_no_step(times: list[float]) -> None:
    outcome = run(Walk(), Script(0.0, []), times)
    assert outcome.status is Status.SUCCESS
    assert (outcome.stats.steps, outcome.stats.nfe) == (0, 0)
    assert outcome.ys[:, 0].tolist() == times


def test_every_status_is_a_sentence_with_advice() -> None:
    for status in Status:
        assert len(str(status).split()) > 3
        assert status.ok is (status in (Status.SUCCESS, Status.EVENT))
        assert bool(status.hint) is not status.ok
