"""The processes that `torchrun` starts: one rank each, gradients summed over all of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class World:
    """rank: this process, from 0. size: how many there are. device: where this one computes."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes what all of them made."""
        return self.rank == 0

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Sum each tensor over all processes, in place, in one exchange per dtype."""
        if self.size == 1:
            return
        groups: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            groups.setdefault(tensor.dtype, []).append(tensor)
        for members in groups.values():
            flat = torch.cat([tensor.reshape(-1) for tensor in members])
            dist.all_reduce(flat)
            for tensor, part in zip(members, torch.split(flat, [t.numel() for t in members]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the first one's tensors, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.size > 1:
            dist.barrier()


def pick_device(wanted: str) -> torch.device:
    """`auto` is a GPU if there is one (the rank's own under torchrun), else the CPU."""
    if wanted != "auto":
        return torch.device(wanted)
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return torch.device("cpu")


@contextlib.contextmanager
def joined(wanted: str = "auto") -> Iterator[World]:
    """This process's place among those that torchrun started; alone if it did not. Joins at most once per process."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    device = pick_device(wanted)
    if size == 1:
        yield World(0, 1, device)
        return
    mine = not dist.is_initialized()
    if mine:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size(), device)
    finally:
        if mine:
            dist.destroy_process_group()
