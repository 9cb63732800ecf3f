"""Handwritten digits of 8 × 8 pixels that come with scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

import odekit
from odekit.core import options as opt
from odekit.core.protocols import Data, Dataset, Split
from odekit.errors import OptionError
from odekit_data.streams import stream


@attrs.frozen
class DigitsOptions:
    """Shares of each class that go to validation and to the test."""

    valid: float = opt.fraction(0.15)
    test: float = opt.fraction(0.15)


class Digits(Dataset):
    """1,797 real handwritten digits, 8 × 8 pixels in [0, 1]; nothing to download.

    Options: ``valid`` and ``test``, shares of all samples; every class is shared out alike. (Alpaydin & Kaynak 1998,
    *Optical recognition of handwritten digits*, UCI; the part of it that scikit-learn ships.)
    """

    name = "digits"
    task = "classification"

    @classmethod
    def load(cls, folder: Path | None, seed: int, **options: Any) -> Data:
        """Load and split; which sample goes where depends on the seed only.

        Raises:
            OptionError: nothing would be left to train on.
        """
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]

        shares = opt.read(DigitsOptions, options, cls.name)
        if shares.valid + shares.test >= 1:
            raise OptionError(f"digits: valid={shares.valid:g} and test={shares.test:g} leave nothing to train on")
        bunch = load_digits()
        x = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
        y = torch.tensor(bunch.target, dtype=torch.int64)
        train, valid, test = (Split(x[rows], y[rows]) for rows in _stratified(y, shares, stream(cls.name, seed)))
        return Data(train=train, valid=valid, test=test, shape=(1, 8, 8), classes=10)


def _stratified(y: Tensor, shares: DigitsOptions, generator: torch.Generator) -> list[Tensor]:
    """Row numbers for training, validation and test, in the order of the data, where the classes are mixed."""
    parts: list[list[Tensor]] = []
    for label in y.unique():
        rows = (y == label).nonzero().squeeze(1)
        rows = rows[torch.randperm(len(rows), generator=generator)]
        valid, test = (round(share * len(rows)) for share in (shares.valid, shares.test))
        parts.append(list(rows.split([len(rows) - valid - test, valid, test])))
    return [torch.cat(rows).sort().values for rows in zip(*parts, strict=True)]


@odekit.hookimpl
def register_datasets(register: Callable[[Any], None]) -> None:
    register(Digits)
