"""The report of a run, for people."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

import odekit
from odekit.registry import catalog
from odekit.runner.choices import TOOLS
from odekit.runner.result import Result
from odekit.runner.spec import Spec

_KINDS = {"model": "model", "data": "dataset", "solver": "solver", "gradient": "gradient", "trace": "trace"}


def written(result: Result, spec: Spec, caveat: str | None, figures: Sequence[Path], commands: Sequence[str]) -> str:
    """The report as Markdown."""
    sections = [
        f"# {spec.model.name} on {spec.data.name}",
        *(f"![{figure.stem}]({figure.parent.name}/{figure.name})" for figure in figures if figure.stem == "density"),
        _table(("", "result"), cells(result)),
        _ended(result),
        *([f"**About the data:** {caveat}"] if caveat else []),
        *(f"![{figure.stem}]({figure.parent.name}/{figure.name})" for figure in figures if figure.stem != "density"),
        "## What ran",
        "```\n" + "\n".join(commands) + "\n```",
        "All settings are in [spec.toml](spec.toml); `odekit run spec.toml` runs them again.",
        _table(("", "name", "from"), _used(spec)),
        "## On what",
        _table(("", ""), _surroundings(result)),
    ]
    return "\n\n".join(sections) + "\n"


def cells(result: Result) -> list[tuple[str, str]]:
    """The numbers of the end, as the reader wants them."""
    test = result.test
    rows = []
    if "error" in test:
        rows += [("test error", f"{100 * test['error']:.2f} %")]
        rows += [("test cross entropy", f"{test['cross_entropy']:.4f} nats")]
    elif "log_likelihood" in test:
        rows += [("held-out log-likelihood", f"{test['log_likelihood']:.4f} ± {test['standard_error']:.4f} nats")]
    else:
        rows += [("test loss", f"{test['loss']:.4f}")]
    if result.nfe_forward:
        rows += [("NFE per training step", f"{result.nfe_forward:.1f} forward, {result.nfe_backward:.1f} backward")]
        rows += [("NFE per test batch", f"{test['nfe']:.1f}")]
    rows += [("gradient, picked", f"{name}: {why}") for name, why in result.picked.items()]
    return [
        *rows,
        ("test samples", f"{test['samples']:,}"),
        ("parameters", f"{result.parameters:,}"),
        ("steps", f"{result.step:,} of {result.total:,}"),
        ("wall time", f"{result.seconds:.1f} s"),
        ("peak memory", f"{result.peak_memory_mib:.0f} MiB"),
    ]


def _ended(result: Result) -> str:
    weights = (
        f"The weights are those of the best evaluation, at step {result.weights_step}."
        if result.weights == "best"
        else "The weights are those after the last step."
    )
    if result.step == result.total:
        return weights
    return (
        f"Training stopped at step {result.step} of {result.total} because of {result.stop}; "
        f"`odekit run --resume` goes on. {weights}"
    )


def _used(spec: Spec) -> Iterable[tuple[str, str, str]]:
    solves = catalog().get("model", spec.model.name).solves
    for field, kind in _KINDS.items():
        if field in TOOLS and not solves:
            continue
        name = getattr(spec, field).name
        entry = catalog().entry(kind, name)
        yield kind, f"`{name}`", f"{entry.distribution} {entry.version}".strip()


def _surroundings(result: Result) -> Iterable[tuple[str, str]]:
    yield "device", result.device
    yield "processor", f"{_processor()}, {os.cpu_count()} logical cores"
    yield "processes × threads", f"{result.processes} × {result.threads}"
    yield "system", platform.platform()
    yield "versions", f"odekit {odekit.__version__}, PyTorch {torch.__version__}, Python {platform.python_version()}"


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
