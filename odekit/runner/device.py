"""The device of a run, and why it was chosen. Nothing else in odekit chooses one."""

from __future__ import annotations

import math
import sys

import attrs
import torch

from odekit.errors import DeviceError

try:
    import resource
except ImportError:  # not a POSIX system
    resource = None  # type: ignore[assignment]


@attrs.frozen
class Device:
    """A chosen device; as a string, the line that tells the user."""

    device: torch.device
    reason: str

    def __str__(self) -> str:
        return f"device: {self.device} ({self.reason})"


def choose(wanted: str, dtype: torch.dtype, local_rank: int = 0) -> Device:
    """The device that ``wanted`` stands for: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Process ``local_rank`` of a machine gets the CUDA device of that number.

    Raises:
        DeviceError: this machine does not have it, or it cannot hold ``dtype``.
    """
    if wanted == "cpu":
        return Device(torch.device("cpu"), "as asked")
    if wanted == "mps":
        return _mps(dtype)
    if wanted == "auto":
        return _best(dtype, local_rank)
    index = int(wanted.partition(":")[2] or local_rank)
    if index >= _cuda_count():
        raise DeviceError(f"{_cuda_name(index)} is not available. This machine has: {', '.join(available())}.")
    return Device(torch.device("cuda", index), f"{torch.cuda.get_device_name(index)}, as asked")


def available() -> list[str]:
    """The devices that PyTorch finds here."""
    cuda = [f"{_cuda_name(index)} ({torch.cuda.get_device_name(index)})" for index in range(_cuda_count())]
    return ["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]


def peak_memory(device: torch.device) -> float:
    """The most memory held so far, in MiB: of the CUDA device, or else of this process; NaN where nobody counts it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if resource is None:
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _best(dtype: torch.dtype, local_rank: int) -> Device:
    if local_rank < _cuda_count():
        return Device(torch.device("cuda", local_rank), f"{torch.cuda.get_device_name(local_rank)}, the fastest here")
    if _cuda_count():
        return Device(torch.device("cpu"), f"there are {_cuda_count()} CUDA devices and this is process {local_rank}")
    if not torch.backends.mps.is_available():
        return Device(torch.device("cpu"), "no CUDA device or MPS here")
    if dtype == torch.float64:
        return Device(torch.device("cpu"), "no CUDA device here, and MPS has no float64")
    return Device(torch.device("mps"), "no CUDA device here")


def _mps(dtype: torch.dtype) -> Device:
    if not torch.backends.mps.is_available():
        raise DeviceError(f"mps is not available. This machine has: {', '.join(available())}.")
    if dtype == torch.float64:
        raise DeviceError("mps has no float64. Use --dtype float32, or --device cpu.")
    return Device(torch.device("mps"), "as asked")


def _cuda_count() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _cuda_name(index: int) -> str:
    return f"cuda:{index}"
