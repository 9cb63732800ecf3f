"""The processes of a run: one, or those that torchrun started."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from odekit.core.protocols import Model


class Objective(nn.Module):
    """``Model.loss`` as a forward, which is what DistributedDataParallel watches."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, y: Tensor | None, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return self.model.loss(x, y, generator)


@attrs.frozen
class Processes:
    """This process's place among those of the run."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """The sums of ``values`` (on the CPU) over all processes."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def largest(self, number: int) -> int:
        """The largest of a number over all processes."""
        return int(self._reduced(torch.tensor(number), dist.ReduceOp.MAX))

    def objective(self, model: Model) -> nn.Module:
        """The training loss, with gradients averaged over all processes."""
        return Objective(model) if self.world == 1 else DistributedDataParallel(Objective(model))

    @contextmanager
    def one_after_first(self) -> Iterator[None]:
        """Let the first process do something (a download, say) before the others."""
        if not self.first:
            self.largest(0)
        yield
        if self.first:
            self.largest(0)

    def _reduced(self, values: Tensor, how: dist.ReduceOp.RedOpType) -> Tensor:
        if self.world == 1:
            return values
        values = values.clone()
        dist.all_reduce(values, how)
        return values


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that torchrun started, connected (gloo on the CPU, NCCL on GPUs); this one alone without it."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    started = dist.is_initialized()
    if not started:
        with_cuda = torch.cuda.is_available() and dist.is_nccl_available()
        dist.init_process_group("cpu:gloo,cuda:nccl" if with_cuda else "gloo")
    yield Processes(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
    if not started:
        gc.collect()  # a DistributedDataParallel left in a cycle would outlive the group, and its threads abort at exit
        dist.destroy_process_group()
