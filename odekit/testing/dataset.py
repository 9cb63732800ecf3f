"""What a dataset has to prove."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from odekit.core.protocols import Data, Dataset, Split
from odekit.errors import DataError, OdekitError
from odekit.testing.checks import Checks, Measured, NotApplicable

DATASET_CHECKS = Checks()
"""In the order in which they are reported."""


@attrs.define(eq=False)
class DatasetSubject:
    """A dataset and the folder in which data are."""

    dataset: type[Dataset]
    folder: Path | None = None
    options: Mapping[str, Any] = attrs.field(factory=dict)
    _loaded: dict[int, Data] = attrs.field(factory=dict, init=False)

    def data(self, seed: int = 0) -> Data:
        """What it loads, once for each seed. Leaves the check where files are missing."""
        if seed not in self._loaded:
            self._loaded[seed] = self.load(seed)
        return self._loaded[seed]

    def load(self, seed: int = 0) -> Data:
        """The same, anew."""
        missing = [file for file in self.dataset.files or () if self.path(file) is None]
        if missing:
            raise NotApplicable(f"{', '.join(missing)} not in the data folder ({self.folder or 'none is set'})")
        try:
            return self.dataset.load(self.folder, seed, **self.options)
        except DataError as error:
            raise NotApplicable(str(error)) from error

    def path(self, file: str) -> Path | None:
        """Where one of its files is: in the data folder, or in a folder of its own in that."""
        if self.folder is None:
            return None
        places = (self.folder / self.dataset.name / file, self.folder / file)
        return next((place for place in places if place.is_file()), None)


def _parts(data: Data) -> dict[str, Split]:
    return {"train": data.train, "valid": data.valid, "test": data.test}


@DATASET_CHECKS.add
def shapes(subject: DatasetSubject) -> Measured:
    """Every part has finite samples of the shape that is told, and labels in range where there are classes."""
    data, wrong = subject.data(), []
    for name, part in _parts(data).items():
        if not len(part):
            wrong.append(f"{name} is empty")
        if tuple(part.x.shape[1:]) != tuple(data.shape) or not part.x.is_floating_point():
            wrong.append(f"{name} has samples {tuple(part.x.shape[1:])} of {part.x.dtype}")
        elif not bool(part.x.isfinite().all()):
            wrong.append(f"{name} is not finite")
        if data.classes is not None:
            wrong += _labels(name, part, data.classes)
    sizes = ", ".join(f"{name} {len(part):,}" for name, part in _parts(data).items())
    return Measured(not wrong, "; ".join(wrong) or f"{sizes} of {tuple(data.shape)}", "as told, none empty")


def _labels(name: str, part: Split, classes: int) -> list[str]:
    y = part.y
    if y is None or y.dtype != torch.int64 or y.shape != (len(part),):
        return [f"{name} has no int64 label for each sample"]
    if len(y) and not (int(y.min()) >= 0 and int(y.max()) < classes):
        return [f"{name} has labels outside 0..{classes - 1}"]
    return []


@DATASET_CHECKS.add
def disjoint(subject: DatasetSubject) -> Measured:
    """No sample is in two parts, unless validation is the test part as a whole and a caveat says so."""
    data = subject.data()
    parts = _parts(data)
    one = data.valid is data.test or torch.equal(data.valid.x, data.test.x)
    if one and data.caveat:
        del parts["valid"]
    keys = {name: _keys(part.x) for name, part in parts.items()}
    shared = {
        f"{a} and {b}": len(keys[a] & keys[b]) for a in keys for b in keys if list(keys).index(a) < list(keys).index(b)
    }
    said = ", ".join(f"{pair}: {count}" for pair, count in shared.items())
    return Measured(not any(shared.values()), f"shared samples: {said}", "none", data.caveat or "")


def _keys(x: Tensor) -> set[bytes]:
    rows = x.reshape(len(x), -1).contiguous().numpy()
    return {hashlib.blake2b(row.tobytes(), digest_size=12).digest() for row in rows}


@DATASET_CHECKS.add
def deterministic(subject: DatasetSubject) -> Measured:
    """A seed gives the same data each time, and the global generator is not touched."""
    before = torch.random.get_rng_state()
    first = subject.data(3)
    again = subject.load(3)
    untouched = torch.equal(before, torch.random.get_rng_state())
    pairs = zip(_parts(first).values(), _parts(again).values(), strict=True)
    same = all(_alike(one.x, two.x) and _alike(one.y, two.y) for one, two in pairs)
    other = torch.equal(first.train.x, subject.data(0).train.x)
    said = "the same" if same else "other data"
    detail = "another seed gives the same data" if other else "another seed gives other data"
    said = said if untouched else f"{said}, the global generator was used"
    return Measured(same and untouched, f"{said}; {detail}", "the same from the seed alone")


def _alike(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other if one is None or other is None else torch.equal(one, other)


@DATASET_CHECKS.add
def options(subject: DatasetSubject) -> Measured:
    """An option that it does not have is refused."""
    subject.data()
    try:
        subject.dataset.load(subject.folder, 0, no_such_option=1)
    except OdekitError:
        return Measured(True, "refused", "an OdekitError")
    return Measured(False, "taken", "an OdekitError")


@DATASET_CHECKS.add
def checksums(subject: DatasetSubject) -> Measured:
    """The declared files have the declared checksums, and a damaged one is refused with a DataError."""
    files = subject.dataset.files
    if files is None:
        raise NotApplicable("it declares no files")
    subject.data()
    wrong = []
    for file, expected in files.items():
        path = subject.path(file)
        assert path is not None
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            wrong.append(f"{file} has another checksum")
    wrong += [f"a damaged {file} was loaded" for file in files if not _refused(subject, file)]
    return Measured(not wrong, "; ".join(wrong) or f"{len(files)} files right", "right, and damage refused")


def _refused(subject: DatasetSubject, damaged: str) -> bool:
    """Whether the dataset refuses its files with one byte of one of them changed."""
    with tempfile.TemporaryDirectory() as place:
        home = Path(place, subject.dataset.name)
        home.mkdir()
        for file in subject.dataset.files or ():
            path = subject.path(file)
            assert path is not None
            shutil.copyfile(path, home / file)
        target = home / damaged
        data = bytearray(target.read_bytes())
        data[len(data) // 2] ^= 0x55
        target.write_bytes(data)
        try:
            subject.dataset.load(Path(place), 0, **subject.options)
        except DataError:
            return True
        return False
