"""What odekit itself brings, through the same entry points as anybody's plugin."""

from __future__ import annotations

import pytest

from odekit.registry import catalog

NAMES = {
    "solver": [
        "euler", "midpoint", "heun", "rk4", "rk4-38", "bosh3", "dopri5", "tsit5",
        "implicit_euler", "trapezoid", "kvaerno3",
    ],
    "gradient": ["direct", "adjoint", "checkpointed", "interpolated"],
    "trace": ["exact", "hutchinson"],
    "model": ["odenet", "resnet", "ffjord"],
    "dataset": [
        "swissroll", "8gaussians", "pinwheel", "circles", "moons", "2spirals", "checkerboard", "rings",
        "digits", "mnist", "miniboone",
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", NAMES)
def test_the_first_party_names(kind: str) -> None:
    entries = {entry.name: entry for entry in catalog().entries(kind) if entry.first_party}
    assert set(NAMES[kind]) <= set(entries), catalog().problems
    for name, entry in entries.items():
        assert catalog().entry(kind, name) is entry
        assert entry.summary, f"{name} has no docstring"


def test_every_first_party_plugin_loads() -> None:
    assert {p.name: p.state for p in catalog().plugins if p.distribution == "odekit" and p.state != "loaded"} == {}
