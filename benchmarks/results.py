"""The runs behind docs/results.md, and the page itself.

    python -m benchmarks.results train [NAME ...]    run what has not been run yet, or go on with what was stopped
    python -m benchmarks.results write               write docs/results.md and its pictures from the run folders

Sections and rows are declared in results.toml; runs go to runs/results/NAME. Training all of them takes a few hours on
two cores.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import attrs
import torch

from odekit.registry import catalog

ROOT = Path(__file__).parent.parent
RUNS = Path("runs/results")
PAGE = ROOT / "docs" / "results.md"
IMAGES = ROOT / "docs" / "images"


@attrs.frozen
class Row:
    """One run: its place on the page, and what follows `odekit run`."""

    name: str
    section: str
    label: str
    args: str

    @property
    def folder(self) -> Path:
        return RUNS / self.name

    @property
    def command(self) -> list[str]:
        return ["odekit", "run", *shlex.split(self.args), "--out", str(self.folder)]

    def result(self) -> dict[str, Any] | None:
        """The numbers of the end, None if the run has not come to it."""
        written = ROOT / self.folder / "result.json"
        return json.loads(written.read_text()) if written.is_file() else None


def declared() -> tuple[dict[str, Any], list[Row]]:
    """The sections of the page by name, and the rows in order."""
    content = tomllib.loads((Path(__file__).parent / "results.toml").read_text())
    return content["sections"], [Row(**row) for row in content["rows"]]


def train(rows: list[Row]) -> None:
    """Run each row that has no result yet; go on with those that were stopped."""
    for row in rows:
        if row.result() is not None:
            continue
        started = (ROOT / row.folder / "spec.toml").is_file()
        command = ["odekit", "run", "--resume", str(row.folder)] if started else row.command
        print(f"$ {shlex.join(command)}", flush=True)
        subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=True)


def write(sections: dict[str, Any], rows: list[Row]) -> None:
    """Write the page, from the rows that have a result."""
    parts = [
        "# Results",
        "Written by `python -m benchmarks.results write` from the folders of the runs; each row's command stands below "
        "its table, and `python -m benchmarks.results train` runs them all. NFE are evaluations of the vector field in "
        "one training step, the mean over training. Wall time covers training and every evaluation; the machines are "
        "shared, so times compare within a section at best. Peak memory is the resident set of the whole process, "
        "PyTorch itself included.",
    ]
    for name, section in sections.items():
        done = [(row, result) for row in rows if row.section == name and (result := row.result()) is not None]
        if done:
            parts += [f"## {section['title']}", section["text"].strip(), *_section(section, done)]
    PAGE.write_text("\n\n".join(parts) + "\n")


def _section(section: dict[str, Any], done: list[tuple[Row, dict[str, Any]]]) -> list[str]:
    header = ["", section["metric"], "parameters", "steps", "NFE forward", "NFE backward", "wall time", "peak memory"]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for row, result in done:
        lines.append(
            [
                row.label,
                _metric(result["test"]),
                f"{result['parameters']:,}",
                f"{result['step']:,}",
                f"{result['nfe_forward']:.1f}",
                f"{result['nfe_backward']:.1f}",
                f"{result['seconds'] / 60:.1f} min",
                f"{result['peak_memory_mib']:.0f} MiB",
            ]
        )
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    commands = "\n".join(f"$ {shlex.join(row.command)}" for row, _ in done)
    caveats = sorted({caveat for row, _ in done if (caveat := _reported(row, r"\*\*About the data:\*\* (.+)"))})
    hardware = sorted({_hardware(row, result) for row, result in done})
    pictures = [picture for row, _ in done if (picture := _picture(row))]
    if "gaussian" in section:
        caveats.append(_gaussian(**section["gaussian"]))
    return [table, *caveats, *pictures, f"Hardware: {'; '.join(hardware)}.", f"```console\n{commands}\n```"]


def _gaussian(data: str, options: dict[str, Any]) -> str:
    """What a Gaussian reaches that has the mean and covariance of the training rows."""
    folder = os.environ.get("ODEKIT_DATA")
    loaded = catalog().get("dataset", data).load(Path(folder) if folder else None, 0, **options)
    train, test = loaded.train.x.double(), loaded.test.x.double()
    fitted = torch.distributions.MultivariateNormal(train.mean(0), torch.cov(train.T))
    return f"A Gaussian fitted to the same {len(train):,} training rows reaches {fitted.log_prob(test).mean():.3f}."


def _metric(test: dict[str, float]) -> str:
    if "error" in test:
        return f"{100 * test['error']:.2f} %"
    return f"{test['log_likelihood']:.3f} ± {test['standard_error']:.3f}"


def _hardware(row: Row, result: dict[str, Any]) -> str:
    processor = _reported(row, r"\| processor \| (.+) \|") or platform.machine()
    versions = _reported(row, r"\| versions \| (.+) \|")
    return f"{result['device']}, {processor}, {result['processes']} process × {result['threads']} threads, {versions}"


def _reported(row: Row, pattern: str) -> str:
    report = ROOT / row.folder / "report.md"
    found = re.search(pattern, report.read_text()) if report.is_file() else None
    return found.group(1) if found else ""


def _picture(row: Row) -> str:
    drawn = ROOT / row.folder / "figures" / "density.png"
    if not drawn.is_file():
        return ""
    IMAGES.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(drawn, IMAGES / f"{row.name}.png")
    return f"![{row.label}: data, samples, density](images/{row.name}.png)"


def main(arguments: list[str]) -> None:
    sections, rows = declared()
    match arguments:
        case ["train", *names] if set(names) <= {row.name for row in rows}:
            train([row for row in rows if not names or row.name in names])
        case ["write"]:
            write(sections, rows)
        case _:
            sys.exit(f"{__doc__}\nNames: {', '.join(row.name for row in rows)}")


if __name__ == "__main__":
    main(sys.argv[1:])
