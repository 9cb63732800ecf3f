"""What is shown while a run goes on."""

from __future__ import annotations

import io

import pytest

from odekit.runner import progress
from odekit.runner.progress import Bar, Display, Lines, display_on, evaluation_line

MEASURED = {"loss": 1.5, "nfe_forward": 20.0, "nfe_backward": 18.0}
RECORD = {
    "step": 10, "epoch": 0.25, "train_loss": 2.0, "nfe_forward": 20.5, "nfe_backward": 18.0, "wall_seconds": 3.21,
}  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_come_at_most_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    lines = Lines(stream)
    lines.begin(100, 0)
    for step in range(1, 13):
        now[0] = float(step)
        lines.step(step, MEASURED)
    assert stream.getvalue() == ("step 5/100  loss 1.5000  nfe 20 + 18\nstep 10/100  loss 1.5000  nfe 20 + 18\n")


def test_a_terminal_gets_a_bar_with_notes_above_it() -> None:
    stream = Terminal()
    bar = display_on(stream)
    assert isinstance(bar, Bar)
    bar.begin(10, 4)
    bar.note("a note [not markup]")
    bar.step(7, MEASURED)
    bar.end()
    bar.end()
    shown = stream.getvalue()
    assert "a note [not markup]" in shown
    assert "7/10" in shown
    assert "loss 1.5000" in shown


def test_anything_else_gets_lines() -> None:
    assert isinstance(display_on(io.StringIO()), Lines)


def test_silence_takes_everything() -> None:
    silent = Display()
    silent.begin(1, 0), silent.step(1, MEASURED), silent.note("x"), silent.end()


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"valid_error": 0.0123, "valid_cross_entropy": 0.5}, "valid error 1.23 %"),
        ({"valid_log_likelihood": -2.5, "valid_standard_error": 0.01}, "valid log-likelihood -2.5000 ± 0.0100 nats"),
        ({"valid_loss": 0.25}, "valid loss 0.2500"),
    ],
)
def test_an_evaluation_is_a_line(metrics: dict[str, float], expected: str) -> None:
    line = evaluation_line({**RECORD, **metrics}, 40)
    assert line == f"step 10/40  epoch 0.25  train loss 2.0000  {expected}  nfe 20.5 + 18  3.2 s"


def test_a_model_without_dynamics_tells_no_calls_of_them() -> None:
    line = evaluation_line({**RECORD, "valid_loss": 1.0, "nfe_forward": 0.0, "nfe_backward": 0.0}, 40)
    assert line == "step 10/40  epoch 0.25  train loss 2.0000  valid loss 1.0000  3.2 s"
