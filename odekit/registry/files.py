"""A plugin in one file: imported by its path, and what may go wrong with that."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from odekit.errors import PluginError
from odekit.registry.loading import line_of, text_of

_sources: dict[str, bytes] = {}
"""What the modules were made from, by their names."""


def whole(path: str | os.PathLike[str]) -> Path:
    """The path by which a file is known, from wherever it was named."""
    return Path(path).expanduser().resolve()


def located(path: str | os.PathLike[str]) -> Path:
    """The whole path of a Python file.

    Raises:
        PluginError: there is no such file, or it is something else.
    """
    file = whole(path)
    if file.is_dir():
        raise PluginError(f"{file} is a folder; give the Python file in it that has the hooks")
    if not file.exists():
        raise PluginError(f"there is no file {file}; give the path of a Python file with hooks, such as my_solver.py")
    if file.suffix != ".py":
        raise PluginError(f"{file} is no Python file; give one that ends in .py")
    return file


def imported(file: Path) -> ModuleType:
    """The module that a file holds; the one from before, as long as the file has not changed.

    It is not found by imports, hides no module, and does not find the files beside it.

    Raises:
        PluginError: its code raises something.
    """
    name = f"odekit_plugin_{file.stem}_{zlib.crc32(str(file).encode()):08x}"
    with told(file, "cannot be imported"):
        source = file.read_bytes()
        before = sys.modules.get(name)
        if before is not None and _sources.get(name) == source:
            return before
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None  # it ends in .py
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            exec(compile(source, str(file), "exec", dont_inherit=True), module.__dict__)
        except BaseException:
            del sys.modules[name]
            if before is not None:
                sys.modules[name] = before
            raise
    _sources[name] = source
    return module


@contextlib.contextmanager
def told(file: Path, what: str) -> Iterator[None]:
    """Turn whatever the file's code raises inside into a line about the file, and send what it prints to stderr."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except KeyboardInterrupt:
        raise
    except PluginError as error:
        raise PluginError(f"{file}: {text_of(error)}") from error
    except BaseException as error:
        raise PluginError(f"{file} {what}: {line_of(error)}{_place(file, error)}. {_remedy(error)}") from error


def _place(file: Path, error: BaseException) -> str:
    """The line of the file that was the last to be reached."""
    reached, frame = 0, error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == str(file):
            reached = frame.tb_lineno
        frame = frame.tb_next
    return f" (line {reached})" if reached else ""


def _remedy(error: BaseException) -> str:
    if isinstance(error, ImportError):
        return "Install what it imports; a plugin of several files is a package, as `odekit new` writes one."
    return "Mend the file."
