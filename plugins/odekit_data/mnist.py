"""MNIST, from the original idx files."""

from __future__ import annotations

import gzip
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
from odekit_data.augment import RandomCrop
from odekit_data.files import HINT, candidates, first_existing, places, verify

URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
MEAN, STD = 0.1307, 0.3081


@attrs.frozen
class MnistOptions:
    """Samples held out for validation, the augmentation, and how many training samples to keep."""

    valid: int = opt.whole(0, at_least=0)
    augment: bool = opt.switch(True)
    limit: int | None = opt.whole(None)


class Mnist(Dataset):
    """60,000 + 10,000 handwritten digits, 28 × 28 pixels.

    Pixels are standardised by the training mean and deviation. Options: ``valid`` holds the last so many training
    samples out (none by default; validation is then the test set), ``augment`` shifts training images by up to four
    pixels, and ``limit`` trains on the first so many samples only.

    The four original files are looked for in the folder ``mnist`` of the data folder, in the data folder itself and in
    the cache, and else downloaded into the cache. (LeCun, Bottou, Bengio & Haffner 1998, *Gradient-based learning
    applied to document recognition*.)
    """

    name = "mnist"
    task = "classification"
    files = SHA256

    @classmethod
    def load(cls, folder: Path | None, seed: int, **options: Any) -> Data:
        """Load; the seed changes nothing.

        Raises:
            DataError: a file is damaged, or not there and cannot be downloaded.
            OptionError: nothing would be left to train on.
        """
        chosen = opt.read(MnistOptions, options, cls.name)
        x, y = _images(folder, "train-images-idx3-ubyte.gz"), _labels(folder, "train-labels-idx1-ubyte.gz")
        test = Split(_images(folder, "t10k-images-idx3-ubyte.gz"), _labels(folder, "t10k-labels-idx1-ubyte.gz"))
        kept = len(x) - chosen.valid
        if kept < 1:
            raise OptionError(f"mnist: valid={chosen.valid} leaves nothing of {len(x):,} samples to train on")
        used = kept if chosen.limit is None else min(kept, chosen.limit)
        return Data(
            train=Split(x[:used], y[:used]),
            valid=Split(x[kept:], y[kept:]) if chosen.valid else test,
            test=test,
            shape=(1, 28, 28),
            classes=10,
            caveat=_caveat(chosen, used, len(x)),
            augment=RandomCrop(4, fill=-MEAN / STD) if chosen.augment else None,
        )


def _caveat(chosen: MnistOptions, used: int, total: int) -> str | None:
    notes = []
    if not chosen.valid:
        notes.append(
            "validation numbers are those of the test set; hold samples out (data.valid) before selecting on them"
        )
    if used < total - chosen.valid:
        notes.append(f"trained on the first {used:,} of {total:,} samples (limit={chosen.limit})")
    return "; ".join(notes) or None


def _images(folder: Path | None, file: str) -> Tensor:
    raw = _idx(_find(folder, file), dimensions=3)
    return torch.from_numpy(raw).unsqueeze(1).float().div_(255).sub_(MEAN).div_(STD)


def _labels(folder: Path | None, file: str) -> Tensor:
    return torch.from_numpy(_idx(_find(folder, file), dimensions=1)).long()


def _find(folder: Path | None, file: str) -> Path:
    """The verified file, from the data folder or the cache; downloaded into the cache where it is in neither."""
    import pooch  # type: ignore[import-untyped]

    cache = Path(pooch.os_cache("odekit")) / Mnist.name
    paths = [*candidates(folder, Mnist.name, file), cache / file]
    found = first_existing(paths)
    if found is not None:
        return verify(found, SHA256[file])
    try:
        return Path(pooch.retrieve(URL + file, f"sha256:{SHA256[file]}", file, cache))
    except (OSError, ValueError) as error:
        raise DataError(
            f"mnist needs {file}; it is not at {places(paths)}, and downloading it failed ({error}). {HINT}"
        ) from error


def _idx(path: Path, dimensions: int) -> np.ndarray:
    """The bytes of a gzipped idx file as an array that may be written to."""
    data = bytearray(gzip.decompress(path.read_bytes()))
    header = 4 + 4 * dimensions
    shape = np.frombuffer(data[4:header], ">i4")
    if data[:4] != bytes([0, 0, 8, dimensions]) or len(data) - header != shape.prod():
        raise DataError(f"{path} is not an idx file of {dimensions}-dimensional bytes")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


@odekit.hookimpl
def register_datasets(register: Callable[[Any], None]) -> None:
    register(Mnist)
