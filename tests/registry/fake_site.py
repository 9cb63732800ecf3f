"""A folder of distributions made for a test: real metadata that importlib_metadata finds, and real modules."""

from __future__ import annotations

import importlib
from pathlib import Path

from odekit.registry import Catalog, load

OWN = "odekit_own_stub"


def solver_source(*names: str) -> str:
    """A plugin module that registers a stub solver under each name."""
    classes = "\n".join(f"class Stub{i}(Stub):\n    name = {name!r}" for i, name in enumerate(names))
    registrations = "\n".join(f"    register(Stub{i})" for i, _ in enumerate(names))
    return f"""
import odekit
from odekit.core.protocols import ODESolver, Step

class Stub(ODESolver):
    order = 1
    def step(self, f, t0, t1, y0, carry):
        return Step(t0, t1, y0, y0)

{classes}

@odekit.hookimpl
def register_solvers(register):
{registrations}
"""


class Site:
    """Distributions in one folder. odekit itself is there from the start, with a stub solver ``euler``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.add("odekit", "0.1.0", {"own": OWN}, {OWN: solver_source("euler")})

    def add(
        self, distribution: str, version: str, entry_points: dict[str, str], modules: dict[str, str] | None = None
    ) -> Path:
        """Install a distribution; returns its dist-info folder."""
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        lines = [f"{name} = {value}" for name, value in entry_points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[odekit]", *lines, ""]))
        for name, source in (modules or {}).items():
            (self.folder / f"{name}.py").write_text(source)
        return info

    def load(self, **environ: str) -> Catalog:
        """The catalog of what is installed here, and nowhere else."""
        importlib.invalidate_caches()
        return load([str(self.folder)], environ)
