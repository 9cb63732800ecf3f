"""Checkpoints that are whole or not there: written aside, then put in place, and believed only by their digest.

A checkpoint is two files: tensors as safetensors, and JSON with everything else and the digests of both. The JSON is
written last, so that it never names tensors that are not on the disk. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import safetensors
import safetensors.torch
from torch import Tensor

from odekit.errors import RunError

_FORMAT = 1
_KEPT = 2


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file as a whole, surviving a crash at any moment with either the old content or the new.

    Raises:
        RunError: it could not be written; what was there before is still there.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise RunError(f"{path} could not be written: {error.strerror}. What was there before is intact.") from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder as durable as the files (where the system lets folders be opened)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def packed(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Tensors as the bytes of a safetensors file."""
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return safetensors.torch.save(own, metadata)


@attrs.frozen(eq=False)
class Checkpoint:
    """What was saved at a step."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


@attrs.frozen
class Checkpoints:
    """The checkpoints in a folder, of which the last two are kept."""

    folder: Path

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write a checkpoint, then drop all but the last two.

        Raises:
            RunError: the disk did not take it; earlier checkpoints are intact.
        """
        self.folder.mkdir(exist_ok=True)
        content = packed(tensors)
        digest = hashlib.sha256(content).hexdigest()
        name = f"step-{step:09d}-{digest[:12]}.safetensors"
        write_atomically(self.folder / name, content)
        body = {
            "format": _FORMAT, "step": step, "tensors": name, "size": len(content), "tensors_sha256": digest,
            "state": dict(state),
        }  # fmt: skip
        card = {**body, "sha256": _digest(body)}
        write_atomically(self.folder / f"step-{step:09d}.json", json.dumps(card, indent=1).encode())
        self._drop_old()

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest checkpoint whose digests hold, and a line for each newer one that is damaged.

        Raises:
            RunError: there are checkpoints, and all are damaged.
        """
        damage: list[str] = []
        for card in self._cards():
            try:
                return self._read(card), damage
            except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
                damage.append(f"the checkpoint {card.name} is damaged ({error})")
        if damage:
            raise RunError(f"no checkpoint in {self.folder} is whole: {'; '.join(damage)}. Start anew elsewhere.")
        return None, []

    def clean(self, newest: Checkpoint | None) -> None:
        """Drop leftovers of interrupted writes, and damaged checkpoints newer than the one in use."""
        if not self.folder.is_dir():
            return
        for card in self._cards():
            if newest is not None and _step(card) > newest.step:
                card.unlink()
        for aside in self.folder.glob(".*.tmp"):
            aside.unlink()
        self._drop_old()

    def _read(self, card: Path) -> Checkpoint:
        body = json.loads(card.read_bytes())
        if body.pop("sha256") != _digest(body):
            raise ValueError("its digest does not hold")
        content = (self.folder / body["tensors"]).read_bytes()
        if hashlib.sha256(content).hexdigest() != body["tensors_sha256"]:
            raise ValueError(f"the digest of {body['tensors']} does not hold")
        if body["format"] != _FORMAT:
            raise ValueError(f"its format is {body['format']}, expected {_FORMAT}")
        return Checkpoint(body["step"], safetensors.torch.load(content), body["state"])

    def _cards(self) -> list[Path]:
        """The JSON files, newest first."""
        return sorted(self.folder.glob("step-*.json"), key=_step, reverse=True)

    def _drop_old(self) -> None:
        cards = self._cards()
        for card in cards[_KEPT:]:
            card.unlink()
        named = set(_tensors_named(cards[:_KEPT]))
        for tensors in self.folder.glob("step-*.safetensors"):
            if tensors.name not in named:
                tensors.unlink()


def _tensors_named(cards: list[Path]) -> Iterator[str]:
    for card in cards:
        try:
            yield json.loads(card.read_bytes())["tensors"]
        except (ValueError, KeyError, TypeError):
            continue


def _step(card: Path) -> int:
    digits = card.stem.removeprefix("step-")
    return int(digits) if digits.isdecimal() else -1


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
