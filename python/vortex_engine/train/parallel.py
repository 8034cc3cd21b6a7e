"""One process or several: what the loop needs to know and to exchange."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vortex_engine.errors import BackendUnavailableError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = ["World", "copy_whole", "distribute", "gradients_stay_local", "joined_world", "whole", "whole_tensors"]

# The others wait this long for the one that tokenises or writes a checkpoint.
_TIMEOUT = timedelta(hours=2)


@dataclass(frozen=True)
class World:
    """The processes of a run; `rank` 0 logs and writes."""

    rank: int = 0
    size: int = 1
    local_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether this is the process that logs and writes."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Element by element over all processes, in float64; the same numbers in each."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return cast("list[float]", total.tolist())

    def wait(self) -> None:
        """Until every process has come here."""
        self.sum([0.0])


@contextmanager
def joined_world(device: Literal["auto", "cpu", "cuda"]) -> Generator[World]:
    """The world that `torchrun` describes in the environment, or one process alone.

    Raises:
        BackendUnavailableError: `cuda` was asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailableError("[train] loop.device is cuda, but torch finds no GPU here; use cpu or auto")
    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield World(device=torch.device("cuda" if on_gpu else "cpu"))
        return
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    place = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_TIMEOUT)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_WORLD_SIZE", "1")), place)
    finally:
        dist.destroy_process_group()


def distribute(
    objective: nn.Module, blocks: Sequence[nn.Module], world: World, kind: Literal["ddp", "fsdp"]
) -> nn.Module:
    """The module whose calls exchange what the processes need: gradients (`ddp`), or weights too (`fsdp`).

    With `fsdp` the parameters of `objective` become shards, so its optimizer is made afterwards.
    """
    objective.to(world.device)
    if world.size == 1:
        return objective
    if kind == "ddp":
        # Buffers are tables that every process computes for itself; torch 2.13 has another name for saying so.
        names = inspect.signature(DistributedDataParallel).parameters
        keep = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
        options: dict[str, Any] = {keep: False}
        return DistributedDataParallel(objective, **options)
    # Seconds to import, which runs without shards do not need.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    return cast("nn.Module", fully_shard(objective, mesh=mesh))


def gradients_stay_local(module: nn.Module) -> AbstractContextManager[Any]:
    """While entered, copies of the model add up gradients without exchanging them; shards exchange them always."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor, gathered from its shards; every process must call it."""
    return cast("DTensor", tensor).full_tensor() if _is_shard(tensor) else tensor


def whole_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """All of each tensor, in the memory of the CPU; every process must call it."""
    return {name: whole(tensor.detach()).cpu() for name, tensor in tensors.items()}


@torch.no_grad()
def copy_whole(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copy a whole tensor into one that may be a shard."""
    if _is_shard(target):
        from torch.distributed.tensor import distribute_tensor

        shard = cast("DTensor", target)
        source = distribute_tensor(source.to(shard.device), shard.device_mesh, shard.placements)
    target.copy_(source)


def _is_shard(tensor: torch.Tensor) -> bool:
    # Where nothing has imported the module of shards there are none.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)
