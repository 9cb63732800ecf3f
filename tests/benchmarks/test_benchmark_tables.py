"""The arithmetic of ratios and of what is held to a target."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks.contest import Entry, Pace
from benchmarks.page import put
from benchmarks.tables import Ratio, of_case, of_targets, ratio, table


def test_a_ratio_is_of_the_medians_and_its_range_over_the_rounds() -> None:
    assert ratio((4.0, 6.0, 9.0), (1.0, 3.0, 2.0)) == Ratio(3.0, 2.0, 4.5)
    assert str(Ratio(3.0, 0.456, 45.6)) == "3.00 (0.46–46)"


def test_no_ratio_of_nothing_or_of_different_rounds() -> None:
    assert ratio((), (1.0,)) is None
    with pytest.raises(ValueError, match=r"zip\(\) argument 2 is shorter"):
        ratio((1.0, 2.0), (1.0,))


def test_the_table_of_a_workload() -> None:
    ours = Entry("odekit", first=1.0, nfe=26, nfe_backward=38, error=2e-6, peak=3 << 20, rounds=(0.010, 0.012))
    peer = Entry("torchdiffeq", first=2.0, nfe=26, rounds=(0.020, 0.048))
    lines = of_case([ours, peer, Entry("torchdyn", note="is not there")]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[2] == ["odekit", "11", "1,000", "26 + 38", "2e-06", "3", "1", ""]
    assert cells[3][-2:] == ["3.09 (2.00–4.00)", ""]
    assert cells[4] == ["torchdyn", *[""] * 6, "is not there"]


def test_targets_are_speed_next_to_peers_and_time_next_to_the_limit() -> None:
    ours = Entry("odekit", rounds=(2.0, 2.0))
    found = {"W4c": [ours, Entry("torchdiffeq-adjoint", rounds=(10.0, 14.0)), Entry("limit", rounds=(1.6, 1.6))]}
    lines = of_targets(found).splitlines()[2:]
    assert [line.split("|")[3].strip() for line in lines] == ["6.00 (5.00–7.00) of 6", "1.25 (1.25–1.25) of 1.1"]


def test_a_table_lines_up() -> None:
    assert table(["a", "bc"], [["def", "g"]]) == "| a   | bc |\n| --- | -- |\n| def | g  |"


def test_a_section_of_the_page_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("by hand\n<!-- cpu -->\nold\n<!-- end of cpu -->\nmore")
    put("cpu", "new", page)
    assert page.read_text() == "by hand\n<!-- cpu -->\nnew\n<!-- end of cpu -->\nmore"
    with pytest.raises(ValueError, match="no marks"):
        put("cuda", "new", page)


def test_long_passes_are_taken_once_a_round_and_short_ones_often() -> None:
    pace = Pace(rounds=3, seconds=0.5, enough=math.inf, most_passes=100)
    assert [pace.passes(one) for one in (2.0, 0.1, 1e-6)] == [1, 5, 100]
