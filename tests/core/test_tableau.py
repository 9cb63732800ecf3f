"""A tableau that contradicts itself, or the order that is claimed for it, never becomes a solver."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import attrs
import odekit_gradients.core
import pytest
import torch
from problems import ADAPTIVE, AUTONOMOUS, SOLVERS, solver_class

import odekit
import odekit.solving
from odekit.core.implicit_runge_kutta import DiagonallyImplicitRungeKutta
from odekit.core.order_conditions import defect, density, size, trees
from odekit.core.runge_kutta import ButcherTableau, ExplicitRungeKutta
from odekit.errors import TableauError
from odekit.registry import Catalog


class Kutta3(ExplicitRungeKutta):
    """Kutta's third-order method."""

    name = "kutta3"
    order = 3
    tableau = ButcherTableau(c=(0, 1 / 2, 1), a=((), (1 / 2,), (-1, 2)), b=(1 / 6, 2 / 3, 1 / 6))


def changed(name: str, **parts: Any) -> ButcherTableau:
    return attrs.evolve(solver_class(name).tableau, **parts)


def nudged(row: tuple[float, ...], **by: float) -> tuple[float, ...]:
    """The row with ``_3=0.1`` added to its entry 3, and so on."""
    return tuple(value + by.get(f"_{i}", 0.0) for i, value in enumerate(row))


def test_rooted_trees_are_as_many_as_there_should_be() -> None:
    assert [len(trees(n)) for n in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]
    for n in range(1, 8):
        assert len(set(trees(n))) == len(trees(n))
        assert all(size(tree) == n for tree in trees(n))


def test_densities_count_orderings_and_symmetries() -> None:
    """n!/(γ σ), summed over the trees with n vertices, is the number (n-1)! of increasing labellings."""

    def symmetry(tree: Any) -> int:
        product = 1
        for branch in set(tree):
            product *= math.factorial(tree.count(branch)) * symmetry(branch) ** tree.count(branch)
        return product

    for n in range(1, 8):
        total = sum(Fraction(math.factorial(n), density(tree) * symmetry(tree)) for tree in trees(n))
        assert total == math.factorial(n - 1)


@pytest.mark.parametrize("name", [name for name in SOLVERS if hasattr(solver_class(name), "tableau")])
def test_registered_tableaus_have_exactly_their_order(name: str) -> None:
    solver = solver_class(name)
    tableau = solver.tableau
    assert defect(tableau.a, tableau.b, solver.order)[0] < 1e-11
    assert defect(tableau.a, tableau.b, solver.order + 1)[0] > 1e-6


@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_embedded_order_is_derived(name: str) -> None:
    assert 0 < solver_class(name).error_order <= solver_class(name).order + 1


def test_a_wrong_coefficient_is_caught_though_rows_still_sum_to_their_nodes() -> None:
    a = list(solver_class("dopri5").tableau.a)
    a[4] = nudged(a[4], _1=1e-6, _2=-1e-6)
    tableau = changed("dopri5", a=a)
    with pytest.raises(TableauError, match=r"Wrong: .*order condition of order \d by .*but order 5 is claimed"):
        type("Wrong", (ExplicitRungeKutta,), {"name": "wrong", "order": 5, "tableau": tableau})


def test_wrong_weights_are_caught_though_they_still_sum_to_one() -> None:
    b = nudged(solver_class("rk4").tableau.b, _0=0.01, _3=-0.01)
    with pytest.raises(TableauError, match="order condition of order 2"):
        type("Wrong", (ExplicitRungeKutta,), {"name": "wrong", "order": 4, "tableau": changed("rk4", b=b)})


def test_a_wrong_stage_time_is_caught() -> None:
    c = list(solver_class("rk4").tableau.c)
    c[2] = 0.25
    with pytest.raises(TableauError, match=r"row 2 of a sums to 0\.5, but its node c\[2\] is 0\.25"):
        changed("rk4", c=c)


def test_an_order_that_is_too_high_is_caught() -> None:
    with pytest.raises(TableauError, match=r"Eager: the tableau misses an order condition of order 4 .*order 4 is"):
        type("Eager", (Kutta3,), {"order": 4, "tableau": Kutta3.tableau})


def test_error_weights_that_are_the_embedded_weights_are_caught() -> None:
    tableau = solver_class("bosh3").tableau
    embedded = [b - e for b, e in zip(tableau.b, tableau.b_error, strict=True)]
    with pytest.raises(TableauError, match=r"b_error sums to .*give the difference b - b̂, which sums to 0"):
        changed("bosh3", b_error=embedded)


def test_error_weights_that_are_all_zero_are_caught() -> None:
    with pytest.raises(TableauError, match="its error estimate would mean nothing"):
        type("Blind", (Kutta3,), {"tableau": attrs.evolve(Kutta3.tableau, b_error=(0, 0, 0))})


def test_a_node_outside_the_step_is_caught() -> None:
    with pytest.raises(TableauError, match=r"c\[1\] = 1\.5 lies outside \[0, 1\]: f would be called outside the step"):
        ButcherTableau(c=(0, 1.5), a=((), (1.5,)), b=(2 / 3, 1 / 3))


def test_weights_that_do_not_sum_to_one_are_caught() -> None:
    with pytest.raises(TableauError, match=r"b sums to 0\.9"):
        ButcherTableau(c=(0,), a=((),), b=(0.9,))


def test_sizes_that_do_not_match_are_caught() -> None:
    with pytest.raises(TableauError, match=r"s entries each.*'c': 2, 'a': 2, 'b': 1"):
        ButcherTableau(c=(0, 1), a=((), (1,)), b=(1,))
    with pytest.raises(TableauError, match="row 1 of a has 3 entries for 2 stages"):
        ButcherTableau(c=(0, 1), a=((), (1, 0, 0)), b=(0.5, 0.5))


def test_a_dense_output_that_misses_the_step_is_caught() -> None:
    b_dense = [nudged(row, _3=1e-3) for row in solver_class("tsit5").tableau.b_dense]
    with pytest.raises(TableauError, match="the dense output's weight 0 ends at"):
        changed("tsit5", b_dense=b_dense)


def test_a_dense_output_of_too_low_order_is_caught() -> None:
    b_dense = [nudged(row, _0=1e-3, _1=-1e-3) for row in solver_class("dopri5").tableau.b_dense]
    with pytest.raises(TableauError, match=r"dense output misses an order condition .* needs one of order 4"):
        type("Bumpy", (ExplicitRungeKutta,), {"order": 5, "tableau": changed("dopri5", b_dense=b_dense)})


@pytest.mark.parametrize(
    ("base", "tableau", "words"),
    [
        (ExplicitRungeKutta, solver_class("trapezoid").tableau, "implicit; derive from DiagonallyImplicitRungeKutta"),
        (DiagonallyImplicitRungeKutta, solver_class("rk4").tableau, "explicit; derive from ExplicitRungeKutta"),
        (
            DiagonallyImplicitRungeKutta,
            ButcherTableau(c=(0.5, 0.5), a=((0.25, 0.25), (0.25, 0.25)), b=(0.5, 0.5)),
            "stages depend on later ones",
        ),
    ],
)
def test_a_tableau_that_the_base_cannot_run_is_caught(base: type, tableau: ButcherTableau, words: str) -> None:
    with pytest.raises(TableauError, match=f"Odd: .*{words}"):
        type("Odd", (base,), {"name": "odd", "order": 2, "tableau": tableau})


def test_a_class_that_forgets_its_order_is_told_so() -> None:
    with pytest.raises(TableauError, match="Short has a tableau but no order"):
        type("Short", (ExplicitRungeKutta,), {"name": "short", "tableau": Kutta3.tableau})


def test_something_else_as_a_tableau_is_told_so() -> None:
    with pytest.raises(TableauError, match=r"Raw\.tableau is a dict; expected a ButcherTableau"):
        type("Raw", (ExplicitRungeKutta,), {"name": "raw", "order": 1, "tableau": {"b": 1}})


@pytest.fixture
def with_kutta3(monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalog into which the three-line hook of a third party has put Kutta3."""

    @odekit.hookimpl
    def register_solvers(register: Callable[[type], None]) -> None:
        register(Kutta3)

    found = Catalog()
    found.register_plugin(odekit_gradients.core, distribution="odekit")
    found.register_plugin(SimpleNamespace(register_solvers=register_solvers), distribution="kutta")
    monkeypatch.setattr(odekit.solving, "catalog", lambda: found)


@pytest.mark.usefixtures("with_kutta3")
def test_the_method_of_the_readme_solves_by_name_with_its_order() -> None:
    errors = []
    for n in (20, 40):
        y1 = odekit.solve(AUTONOMOUS.f, AUTONOMOUS.exact(0.0), [0.0, 1.0], solver="kutta3", step_size=1 / n).y1
        errors.append(float((y1 - AUTONOMOUS.exact(1.0)).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(3, abs=0.25)
    torch.testing.assert_close(y1, AUTONOMOUS.exact(1.0), rtol=1e-5, atol=0)
