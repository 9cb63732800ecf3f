"""MINIBOONE as density-estimation papers use it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

import odekit
from odekit.core import options as opt
from odekit.core.protocols import Data, Dataset, Split
from odekit.errors import DataError, OptionError
from odekit_data.files import HINT, candidates, first_existing, places

FILE = "miniboone_partial.npz"
FEATURES = 43
OFFICIAL_TRAIN = 29_556


@attrs.frozen
class MinibooneOptions:
    """How many of the official validation rows to validate on; the others are trained on."""

    valid: int | None = opt.whole(None)


class Miniboone(Dataset):
    """43 features of particle events, split and normalised as by Papamakarios et al. 2017.

    Read from ``miniboone/miniboone_partial.npz`` in the data folder, with float arrays ``train``, ``val`` and ``test``
    of 43 columns. Option: ``valid`` keeps the first so many validation rows for validation and moves the others to the
    training part (by default none is moved).

    (Papamakarios, Pavlakou & Murray 2017, *Masked autoregressive flow for density estimation*; the events are UCI's
    MiniBooNE particle identification.)
    """

    name = "miniboone"
    task = "density"

    @classmethod
    def load(cls, folder: Path | None, seed: int, **options: Any) -> Data:
        """Load; the seed changes nothing.

        Raises:
            DataError: the file is missing or is not what it should be.
            OptionError: more validation rows are asked for than there are.
        """
        chosen = opt.read(MinibooneOptions, options, cls.name)
        paths = candidates(folder, cls.name, FILE)
        path = first_existing(paths)
        if path is None:
            raise DataError(f"miniboone needs {FILE}; looked in {places(paths)}. {HINT}")
        train, valid, test = _read(path)
        kept = len(valid) if chosen.valid is None else chosen.valid
        if kept > len(valid):
            raise OptionError(f"miniboone: valid={kept}, but there are {len(valid):,} validation rows")
        caveat = _caveat(len(train), len(valid) - kept)
        return Data(
            train=Split(torch.cat([train, valid[kept:]])),
            valid=Split(valid[:kept]),
            test=Split(test),
            shape=(FEATURES,),
            caveat=caveat,
        )


def _caveat(train: int, moved: int) -> str | None:
    notes = []
    if train < OFFICIAL_TRAIN:
        notes.append(
            f"the training part is incomplete: the first {train:,} of the {OFFICIAL_TRAIN:,} official training rows. "
            "Validation and test rows are the official ones, so the test set is that of the papers, the training set "
            "is not"
        )
    if moved:
        notes.append(f"{moved:,} official validation rows were trained on")
    return "; ".join(notes) or None


def _read(path: Path) -> list[Tensor]:
    """Training, validation and test rows."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            parts = [np.asarray(arrays[name], np.float32) for name in ("train", "val", "test")]
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read: {error}. Replace it.") from error
    for name, rows in zip(("train", "val", "test"), parts, strict=True):
        if rows.ndim != 2 or rows.shape[1] != FEATURES or not np.isfinite(rows).all():
            raise DataError(f"{path}: {name} has shape {rows.shape}; expected finite rows of {FEATURES} columns")
    return [torch.from_numpy(rows) for rows in parts]


@odekit.hookimpl
def register_datasets(register: Callable[[Any], None]) -> None:
    register(Miniboone)
