from __future__ import annotations

import gzip
import hashlib
import http.server
import math
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from odekit_data import mnist
from odekit_data.augment import RandomCrop
from odekit_data.digits import Digits
from odekit_data.miniboone import Miniboone
from odekit_data.mnist import Mnist
from odekit_data.streams import stream
from odekit_data.toy import TOYS, Checkerboard, EightGaussians, Rings

from odekit.core.protocols import Dataset
from odekit.errors import DataError, OptionError

NAMES = ["swissroll", "8gaussians", "pinwheel", "circles", "moons", "2spirals", "checkerboard", "rings"]
FEW = {"train": 2_000, "valid": 100, "test": 50}


# --- generated densities ---------------------------------------------------------------------------------------------


def test_the_eight_densities_are_there() -> None:
    assert [toy.name for toy in TOYS] == NAMES


@pytest.mark.parametrize("toy", TOYS, ids=NAMES)
class TestEveryToy:
    def test_parts_shapes_and_scale(self, toy: type[Dataset]) -> None:
        data = toy.load(None, 0, **FEW)
        assert (len(data.train), len(data.valid), len(data.test)) == (2_000, 100, 50)
        assert data.shape == (2,)
        assert (data.classes, data.caveat, data.augment, data.train.y) == (None, None, None, None)
        assert data.train.x.dtype == torch.float32
        assert data.train.x.shape == (2_000, 2)
        spread = data.train.x.std(dim=0)
        assert spread.min() > 0.9
        assert spread.max() < 2.5
        assert data.train.x.abs().max() < 5.5

    def test_the_seed_decides_everything(self, toy: type[Dataset]) -> None:
        once, again, other = (toy.load(None, seed, **FEW) for seed in (1, 1, 2))
        assert torch.equal(once.train.x, again.train.x)
        assert torch.equal(once.test.x, again.test.x)
        assert not torch.equal(once.train.x, other.train.x)

    def test_parts_are_independent_of_each_other(self, toy: type[Dataset]) -> None:
        data = toy.load(None, 0, **FEW)
        more = toy.load(None, 0, **{**FEW, "train": 3_000})
        assert torch.equal(data.test.x, more.test.x)
        assert not torch.isclose(data.train.x[:50], data.test.x).any(dim=1).any()

    def test_global_random_state_is_left_alone(self, toy: type[Dataset]) -> None:
        before = torch.random.get_rng_state()
        toy.load(None, 0, **FEW)
        assert torch.equal(before, torch.random.get_rng_state())

    def test_options_are_checked(self, toy: type[Dataset]) -> None:
        with pytest.raises(OptionError, match="Did you mean 'train'"):
            toy.load(None, 0, trian=10)
        with pytest.raises(OptionError, match="train=0; expected a whole number"):
            toy.load(None, 0, train=0)


def test_checkerboard_fills_every_second_square_evenly() -> None:
    squares = ((Checkerboard.draw(8_000, stream("board")) + 4) / 2).floor().long()
    assert squares.min() == 0
    assert squares.max() == 3
    assert ((squares.sum(dim=1) % 2) == 0).all()
    counts = torch.bincount(squares[:, 0] * 4 + squares[:, 1], minlength=16)
    filled = counts[counts > 0]
    assert len(filled) == 8
    # Each count is Binomial(8000, 1/8): mean 1000, deviation 29.6. A fair sampler fails with chance 5e-6.
    assert (filled - 1000).abs().max() < 5 * 29.6


def test_eight_gaussians_have_their_centres_and_width() -> None:
    x = EightGaussians.draw(20_000, stream("gaussians"))
    corner = torch.round(torch.atan2(x[:, 1], x[:, 0]) / (math.pi / 4)) % 8
    for k in range(8):
        own = x[corner == k]
        centre = 4 / math.sqrt(2) * torch.tensor([math.cos(k * math.pi / 4), math.sin(k * math.pi / 4)])
        torch.testing.assert_close(own.mean(dim=0), centre, atol=0.05, rtol=0)
        torch.testing.assert_close(own.std(dim=0), torch.full((2,), 0.5 / math.sqrt(2)), atol=0.03, rtol=0)


def test_rings_have_their_radii() -> None:
    radius = Rings.draw(4_000, stream("rings")).norm(dim=1)
    nearest = (radius / 0.75).round().clamp(1, 4) * 0.75
    assert (radius - nearest).abs().mean() < 0.1
    assert nearest.unique().tolist() == [0.75, 1.5, 2.25, 3.0]


def test_streams_are_the_same_everywhere() -> None:
    assert stream("moons", 0, "train").initial_seed() == 7207226025358681594
    assert stream("moons", 0, "test").initial_seed() != stream("moons", 0, "train").initial_seed()


# --- digits ----------------------------------------------------------------------------------------------------------


def test_digits_are_split_by_class_without_overlap() -> None:
    data = Digits.load(None, 0)
    assert data.shape == (1, 8, 8)
    assert data.classes == 10
    parts = (data.train, data.valid, data.test)
    assert sum(map(len, parts)) == 1797
    assert all(part.x.shape[1:] == (1, 8, 8) and part.x.dtype == torch.float32 for part in parts)
    assert data.train.x.min() == 0
    assert data.train.x.max() == 1
    totals = torch.stack([part.y.bincount(minlength=10) for part in parts])
    torch.testing.assert_close(totals[2] / totals.sum(0), torch.full((10,), 0.15), atol=0.005, rtol=0)
    rows = torch.cat([part.x.flatten(1) for part in parts])
    assert len(rows.unique(dim=0)) == 1797
    assert len(data.test.y[:60].unique()) == 10, "the first samples of a part must not be of a few classes only"


def test_digits_keep_their_labels() -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    label = {image.tobytes(): int(y) for image, y in zip(bunch.images, bunch.target, strict=True)}
    data = Digits.load(None, 3)
    for image, y in zip(data.test.x, data.test.y, strict=True):
        assert label[(image[0].double() * 16).numpy().tobytes()] == int(y)


def test_digits_follow_the_seed_and_the_options() -> None:
    once, again, other = (Digits.load(None, seed) for seed in (0, 0, 1))
    assert torch.equal(once.test.x, again.test.x)
    assert not torch.equal(once.test.x, other.test.x)
    assert len(Digits.load(None, 0, test=0.5).test) == pytest.approx(900, abs=5)
    with pytest.raises(OptionError, match="leave nothing to train on"):
        Digits.load(None, 0, test=0.5, valid=0.5)
    with pytest.raises(OptionError, match="Did you mean 'valid'"):
        Digits.load(None, 0, valids=0.5)


# --- random crops ----------------------------------------------------------------------------------------------------


def test_random_crop_is_a_shift_of_each_image_by_its_own_offset() -> None:
    x = torch.rand(64, 2, 6, 7) + 1
    cropped = RandomCrop(2, fill=-1.0)(x, stream("crop"))
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2), value=-1.0)
    seen = set()
    for image, source in zip(cropped, padded, strict=True):
        places = [(i, j) for i in range(5) for j in range(5) if torch.equal(source[:, i : i + 6, j : j + 7], image)]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) > 15  # of 25; fewer than 16 different ones among 64 draws has a chance below 1e-4


def test_random_crop_without_padding_changes_nothing() -> None:
    x = torch.rand(3, 1, 5, 5)
    assert torch.equal(RandomCrop(0)(x, stream("crop")), x)


# --- mnist -----------------------------------------------------------------------------------------------------------


def _idx(values: np.ndarray) -> bytes:
    return gzip.compress(struct.pack(f">4B{values.ndim}i", 0, 0, 8, values.ndim, *values.shape) + values.tobytes())


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes]:
    """The four files of a set of 12 + 5 samples, known by their checksums; nothing can be downloaded."""
    rng = np.random.default_rng(0)
    files = {}
    for part, n in (("train", 12), ("t10k", 5)):
        files[f"{part}-images-idx3-ubyte.gz"] = _idx(rng.integers(0, 256, (n, 28, 28), dtype=np.uint8))
        files[f"{part}-labels-idx1-ubyte.gz"] = _idx(np.arange(n, dtype=np.uint8) % 10)
    monkeypatch.setattr(mnist, "SHA256", {name: hashlib.sha256(data).hexdigest() for name, data in files.items()})
    monkeypatch.setattr(mnist, "URL", "http://127.0.0.1:1/")
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache")
    return files


def _write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("inside", ["mnist", "."])
def test_mnist_reads_idx_files_from_the_data_folder(tiny: dict[str, bytes], tmp_path: Path, inside: str) -> None:
    _write(tmp_path / "data" / inside, tiny)
    data = Mnist.load(tmp_path / "data", 0)
    assert data.shape == (1, 28, 28)
    assert data.train.x.shape == (12, 1, 28, 28)
    assert data.train.x.dtype == torch.float32
    raw = np.frombuffer(gzip.decompress(tiny["train-images-idx3-ubyte.gz"])[16:], np.uint8).reshape(12, 1, 28, 28)
    torch.testing.assert_close(data.train.x, (torch.tensor(raw) / 255 - 0.1307) / 0.3081)
    assert data.test.y.tolist() == [0, 1, 2, 3, 4]


def test_mnist_validates_on_the_test_set_unless_told_otherwise(tiny: dict[str, bytes], tmp_path: Path) -> None:
    folder = _write(tmp_path / "data", tiny)
    data = Mnist.load(folder, 0)
    assert torch.equal(data.valid.x, data.test.x)
    assert "those of the test set" in data.caveat
    held = Mnist.load(folder, 0, valid=4)
    assert held.valid.y.tolist() == [8, 9, 0, 1]
    assert held.train.y.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert held.caveat is None
    limited = Mnist.load(folder, 0, valid=4, limit=3)
    assert limited.train.y.tolist() == [0, 1, 2]
    assert limited.valid.y.tolist() == [8, 9, 0, 1]
    assert "first 3 of 12" in limited.caveat
    with pytest.raises(OptionError, match="leaves nothing of 12 samples"):
        Mnist.load(folder, 0, valid=12)


def test_mnist_augmentation_pads_with_black(tiny: dict[str, bytes], tmp_path: Path) -> None:
    folder = _write(tmp_path / "data", tiny)
    augment = Mnist.load(folder, 0).augment
    assert augment == RandomCrop(4, fill=-0.1307 / 0.3081)
    assert Mnist.load(folder, 0, augment=False).augment is None


def test_a_damaged_mnist_file_is_an_error(tiny: dict[str, bytes], tmp_path: Path) -> None:
    folder = _write(tmp_path / "data", tiny)
    bad = bytearray(tiny["t10k-images-idx3-ubyte.gz"])
    bad[len(bad) // 2] ^= 1
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(bad)
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz is damaged: its SHA-256 is"):
        Mnist.load(folder, 0)


def test_a_file_that_is_not_idx_is_an_error(
    tiny: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny["t10k-labels-idx1-ubyte.gz"] = gzip.compress(struct.pack(">4Bi", 0, 0, 8, 1, 9) + b"\0\1\2")
    digest = hashlib.sha256(tiny["t10k-labels-idx1-ubyte.gz"]).hexdigest()
    monkeypatch.setitem(mnist.SHA256, "t10k-labels-idx1-ubyte.gz", digest)
    with pytest.raises(DataError, match="not an idx file"):
        Mnist.load(_write(tmp_path / "data", tiny), 0)


def test_missing_mnist_says_where_it_was_looked_for(tiny: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="downloading it failed") as caught:
        Mnist.load(tmp_path, 0)
    for place in (tmp_path / "mnist", tmp_path, tmp_path / "cache" / "mnist"):
        assert str(place / "train-images-idx3-ubyte.gz") in str(caught.value)
    assert "ODEKIT_DATA" in str(caught.value)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is served where MNIST is downloaded from."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(mnist, "URL", f"http://127.0.0.1:{running.server_port}/")
        yield folder
        running.shutdown()
        thread.join()


def test_mnist_is_downloaded_once_into_the_cache(tiny: dict[str, bytes], server: Path, tmp_path: Path) -> None:
    _write(server, tiny)
    assert len(Mnist.load(None, 0).train) == 12
    for name in tiny:
        (server / name).unlink()
    assert len(Mnist.load(None, 0).train) == 12
    assert {path.name for path in (tmp_path / "cache" / "mnist").iterdir()} == set(tiny)


def test_a_download_with_the_wrong_content_is_refused(tiny: dict[str, bytes], server: Path, tmp_path: Path) -> None:
    _write(server, dict.fromkeys(tiny, b"something else"))
    with pytest.raises(DataError, match="hash"):
        Mnist.load(None, 0)
    assert not list((tmp_path / "cache" / "mnist").iterdir())


# --- miniboone -------------------------------------------------------------------------------------------------------


def _miniboone(folder: Path, train: int = 20, **replaced: np.ndarray) -> Path:
    rng = np.random.default_rng(0)
    sizes = {"train": train, "val": 10, "test": 15}
    arrays = {name: rng.standard_normal((n, 43)).astype(np.float32) for name, n in sizes.items()} | replaced
    (folder / "miniboone").mkdir(parents=True)
    np.savez(folder / "miniboone" / "miniboone_partial.npz", **arrays)
    return folder


def test_miniboone_says_that_its_training_part_is_incomplete(tmp_path: Path) -> None:
    data = Miniboone.load(_miniboone(tmp_path), 0)
    assert (len(data.train), len(data.valid), len(data.test)) == (20, 10, 15)
    assert data.shape == (43,)
    assert data.train.x.dtype == torch.float32
    assert "the first 20 of the 29,556 official training rows" in data.caveat


def test_complete_miniboone_has_no_caveat(tmp_path: Path) -> None:
    assert Miniboone.load(_miniboone(tmp_path, train=29_556), 0).caveat is None


def test_miniboone_can_train_on_validation_rows_and_says_so(tmp_path: Path) -> None:
    folder = _miniboone(tmp_path)
    whole, moved = Miniboone.load(folder, 0), Miniboone.load(folder, 0, valid=4)
    assert (len(moved.train), len(moved.valid)) == (26, 4)
    assert torch.equal(moved.train.x[20:], whole.valid.x[4:])
    assert torch.equal(moved.valid.x, whole.valid.x[:4])
    assert "6 official validation rows were trained on" in moved.caveat
    with pytest.raises(OptionError, match="there are 10 validation rows"):
        Miniboone.load(folder, 0, valid=11)


def test_missing_miniboone_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ODEKIT_DATA") as caught:
        Miniboone.load(tmp_path, 0)
    assert str(tmp_path / "miniboone" / "miniboone_partial.npz") in str(caught.value)
    with pytest.raises(DataError, match=r"no folder \(none is set\)"):
        Miniboone.load(None, 0)


@pytest.mark.parametrize(
    "test",
    [np.full((15, 43), np.nan, np.float32), np.zeros((15, 40), np.float32), np.zeros(43, np.float32)],
    ids=["nan", "40 columns", "one row"],
)
def test_miniboone_with_wrong_content_is_refused(tmp_path: Path, test: np.ndarray) -> None:
    with pytest.raises(DataError, match="expected finite rows of 43 columns"):
        Miniboone.load(_miniboone(tmp_path, test=test), 0)


def test_miniboone_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = _miniboone(tmp_path) / "miniboone" / "miniboone_partial.npz"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="cannot be read"):
        Miniboone.load(tmp_path, 0)
    np.savez(path, train=np.zeros((2, 43)))
    with pytest.raises(DataError, match="cannot be read"):
        Miniboone.load(tmp_path, 0)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read"):
        Miniboone.load(tmp_path, 0)
