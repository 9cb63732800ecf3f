"""The Python that has JAX and diffrax: one that is named, one that can import them, or one that is set up here."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.competitors import Unfit

NAMED = "ODEKIT_BENCH_JAX"
PACKAGES = ("diffrax>=0.7", "jax>=0.4.38", "numpy>=1.26")


def folder() -> Path:
    """Where the environment is set up: under the user's caches."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "odekit" / "bench-jax"


@functools.cache
def interpreter() -> str:
    """A Python that imports diffrax.

    The environment variable ``ODEKIT_BENCH_JAX`` names one. Otherwise this one serves if it has diffrax, and if not an
    environment of its own is made, once.

    Raises:
        Unfit: the named one does not import diffrax, or none could be set up.
    """
    named = os.environ.get(NAMED)
    if named:
        _must_import(named)
        return named
    if importlib.util.find_spec("diffrax"):
        return sys.executable
    python = folder() / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        print(f"Setting up JAX and diffrax in {folder()}", file=sys.stderr)
        venv.create(folder(), with_pip=True)
    try:
        _must_import(str(python))
    except Unfit:
        done = subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=False)
        if done.returncode:
            raise Unfit(f"JAX and diffrax could not be installed in {folder()}") from None
        _must_import(str(python))
    return str(python)


def _must_import(python: str) -> None:
    try:
        done = subprocess.run([python, "-c", "import diffrax"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise Unfit(f"{python} does not run: {error}") from error
    if done.returncode:
        raise Unfit(f"{python} does not import diffrax: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")
