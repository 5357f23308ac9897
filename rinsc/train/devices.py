"""Where a run trains: one process, or several that torchrun started, with the model spread."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from rinsc.backends.torch.device import no_device
from rinsc.backends.torch.parallel import Recursed, parallelize
from rinsc.backends.torch.processes import Result, on_first
from rinsc.errors import Problem, RinscError, UsageError

_LAUNCH = "start the processes with: torchrun --nproc-per-node 8 -m rinsc train ..."


@dataclass(frozen=True)
class Devices:
    """The device of this process, the number of all, and whether the model is sharded over them."""

    device: torch.device
    count: int = 1
    rank: int = 0
    shard: bool = False
    recursed: Recursed = "pin"

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def spread(self, model: nn.Module) -> nn.Module:
        """The model over all devices: sharded (FSDP2), or a copy on each (DDP)."""
        if self.count == 1:
            return model
        names = ("shard",) if self.shard else ("replicate",)
        mesh = init_device_mesh(self.device.type, (self.count,), mesh_dim_names=names)
        return parallelize(model, mesh, recursed=self.recursed)

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean of a number over all processes."""
        if self.count > 1:
            value = value.clone()
            dist.all_reduce(value)
            value = value / self.count
        return value

    def on_first(self, action: Callable[[], Result]) -> Result:
        """Do something in the first process while the others wait; its result or error is all's."""
        return on_first(action)

    @contextmanager
    def lost_processes(self) -> Iterator[None]:
        """What a collective raises where another process is gone becomes a RinscError."""
        try:
            yield
        except RuntimeError as error:
            lost = isinstance(error, dist.DistError) or "Connection" in str(error)
            if self.count == 1 or not lost:
                raise
            message = "another process of this run is gone"
            hint = "see what it said; the same command goes on from the last checkpoint"
            raise RinscError(Problem("process-lost", message, hint=hint)) from error

    def wait(self) -> None:
        if self.count > 1:
            dist.barrier()


def find_devices(
    name: Literal["auto", "cpu", "cuda"], *, shard: bool = False, recursed: Recursed = "pin"
) -> Devices:
    """The devices of this process; joins the others where torchrun started several.

    Raises UsageError for a GPU that is not there, for sharding over one process, and where what
    started the processes does not say how they meet; RinscError where they do not meet.
    """
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise no_device(name, also=())
    kind = "cuda" if has_gpu and name != "cpu" else "cpu"
    count = _told("WORLD_SIZE", 1)
    if count <= 1:
        if shard:
            message = "--shard spreads the model over several processes, and there is one"
            raise UsageError(Problem("one-process", message, hint=_LAUNCH))
        return Devices(torch.device(kind))
    device = _own_gpu() if kind == "cuda" else torch.device(kind)
    if not dist.is_initialized():
        _join("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo")
    return Devices(device, count, dist.get_rank(), shard, recursed)


def _own_gpu() -> torch.device:
    local, gpus = _told("LOCAL_RANK", 0), torch.cuda.device_count()
    if local >= gpus:
        message = f"process {local} of this machine has no GPU of its own: there are {gpus}"
        hint = f"start at most {gpus} processes a machine"
        raise UsageError(Problem("no-gpu", message, hint=hint))
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    return device


def _told(name: str, default: int) -> int:
    """A number that torchrun tells each process."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        message = f"{name} is '{text:.40}', which is no number"
        raise UsageError(Problem("bad-launch", message, hint=f"unset it, or {_LAUNCH}"))
    return int(text)


def _join(backend: str) -> None:
    """Meet the other processes."""
    try:
        dist.init_process_group(backend)
        on_first(lambda: None)  # they wait for each other from here on: none can have failed yet
    except (ValueError, OverflowError) as error:
        message = f"the processes cannot meet: {str(error).splitlines()[0]:.200}"
        hint = f"unset WORLD_SIZE for one process, or {_LAUNCH}"
        raise UsageError(Problem("bad-launch", message, hint=hint)) from error
    except dist.DistError as error:
        message = f"the processes do not meet: {str(error).splitlines()[0]:.200}"
        hint = "see that all of them were started, and can reach MASTER_ADDR at MASTER_PORT"
        raise RinscError(Problem("process-lost", message, hint=hint)) from error
