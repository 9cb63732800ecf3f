"""The choice of a device, with machines made up."""

from __future__ import annotations

import pytest
import torch

from odekit.errors import DeviceError
from odekit.runner.device import available, choose, peak_memory


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    def has(cuda: int = 0, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"Card {index}")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return has


@pytest.mark.parametrize(
    ("cuda", "mps", "dtype", "rank", "line"),
    [
        (0, False, torch.float32, 0, "device: cpu (no CUDA device or MPS here)"),
        (2, False, torch.float32, 0, "device: cuda:0 (Card 0, the fastest here)"),
        (2, False, torch.float32, 1, "device: cuda:1 (Card 1, the fastest here)"),
        (1, False, torch.float32, 1, "device: cpu (there are 1 CUDA devices and this is process 1)"),
        (0, True, torch.float32, 0, "device: mps (no CUDA device here)"),
        (0, True, torch.float64, 0, "device: cpu (no CUDA device here, and MPS has no float64)"),
    ],
)
def test_auto_says_what_and_why(machine, cuda: int, mps: bool, dtype: torch.dtype, rank: int, line: str) -> None:
    machine(cuda, mps)
    assert str(choose("auto", dtype, rank)) == line


def test_what_was_asked_for(machine) -> None:
    machine(2, mps=True)
    assert choose("cpu", torch.float64).device == torch.device("cpu")
    assert choose("cuda", torch.float32, 1).device == torch.device("cuda", 1)
    assert choose("cuda:0", torch.float32, 1).device == torch.device("cuda", 0)
    assert choose("mps", torch.float32).device == torch.device("mps")


@pytest.mark.parametrize(("wanted", "name"), [("cuda", "cuda:0"), ("cuda:1", "cuda:1"), ("mps", "mps")])
def test_an_absent_device_lists_what_is_there(machine, wanted: str, name: str) -> None:
    machine()
    with pytest.raises(DeviceError, match=f"{name} is not available. This machine has: cpu"):
        choose(wanted, torch.float32)


def test_a_machine_with_some_lists_them(machine) -> None:
    machine(1, mps=True)
    assert available() == ["cpu", "cuda:0 (Card 0)", "mps"]
    with pytest.raises(DeviceError, match=r"cuda:3 is not available. This machine has: cpu, cuda:0 \(Card 0\), mps"):
        choose("cuda:3", torch.float32)
    with pytest.raises(DeviceError, match="float64"):
        choose("mps", torch.float64)


def test_peak_memory_is_that_of_this_process() -> None:
    assert 10 < peak_memory(torch.device("cpu")) < 1e5
