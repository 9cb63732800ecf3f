"""The machine: one thread on one core, how much memory was used, and what to call it."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")
"""The environment of a process that shall compute on one thread."""
JAX_ON_ONE_THREAD = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"}

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def pin(core: int | None) -> None:
    """Keep this process on one core, where the system can do that."""
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def last_core() -> int | None:
    """The last of the cores that this process may use."""
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def one_torch_thread() -> None:
    import torch

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)


def forget_peak() -> None:
    """Have :func:`peak` begin again from what is used now, where the system can do that."""
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
    if os.access(_CLEAR, os.W_OK):
        _CLEAR.write_text("5")


def peak(device: str) -> int:
    """The most bytes that were used so far: of the GPU, or resident in this process."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated()
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def described(device: str) -> str:
    """The processor, and the GPU if that is what computes."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    text = f"{name}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    if device.startswith("cuda"):
        import torch

        text = f"{torch.cuda.get_device_name(device)}; {text}"
    return text
