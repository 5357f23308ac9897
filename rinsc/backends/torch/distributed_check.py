"""Do several processes together compute the gradients that one process computes?

A tiny recursed model with random rounds, checkpointed at every visit, takes a few steps on one
batch: whole in this process, and split over all of them under DDP and FSDP2.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from rinsc.backends.torch.module import CompiledModule, to_torch
from rinsc.backends.torch.parallel import emitted_module, parallelize
from rinsc.backends.torch.processes import end_process
from rinsc.errors import RinscError
from rinsc.graph import Rounds, build_graph
from rinsc.graph.law import draw_rounds
from rinsc.spec import ModelSpec, model_spec
from rinsc.storage.files import read_json
from rinsc.storage.folders import temporary_folder

GRADIENT_LIMIT = 1e-5  # of the largest gradient: sums in fp32, in another order
STEPS = 3
SEQUENCES, SEQ = 2, 11  # of each process
RATE = 0.5  # large enough for a step on old weights to show
START_SECONDS = 60
RESULT = "rows.json"

Spread = Callable[[CompiledModule], nn.Module]


def check_spec() -> ModelSpec:
    """The model that is trained: a block of its own, a loop whose rounds are drawn, another."""
    return model_spec(
        "P(A^3{skip=0.5})B",
        layers=4,
        kind="llama",
        width=24,
        heads=4,
        kv_heads=2,
        mlp_width=37,
        vocab_size=31,
        context=16,
        tied_embedding=True,
    )


def ways_to_spread(processes: int) -> Mapping[str, Spread]:
    """What is checked, by what it is called."""
    replicate = init_device_mesh("cpu", (processes,), mesh_dim_names=("replicate",))
    shard = init_device_mesh("cpu", (processes,), mesh_dim_names=("shard",))
    return {
        "DDP": lambda model: parallelize(model, replicate),
        "FSDP2, recursed blocks pinned": lambda model: parallelize(model, shard, recursed="pin"),
        "FSDP2, recursed blocks resharded": lambda model: parallelize(
            model, shard, recursed="reshard"
        ),
    }


def gradient_gap(spread: Spread, spec: ModelSpec, *, seed: int = 0) -> float:
    """Largest difference of gradients from those of one process, relative to the largest of a
    weight, over some steps; the same number on every rank."""
    ranks, rank = dist.get_world_size(), dist.get_rank()
    alone, together = _fresh(spec, seed), spread(_fresh(spec, seed))
    optimizers = [torch.optim.SGD(m.parameters(), lr=RATE) for m in (alone, together)]
    shape = (ranks * SEQUENCES, SEQ + 1)
    generator = torch.Generator().manual_seed(seed)
    worst = 0.0
    for step in range(STEPS):
        batch = torch.randint(spec.vocab_size, shape, generator=generator)
        rounds = draw_rounds(build_graph(spec), seed, step)
        for optimizer in optimizers:
            optimizer.zero_grad()
        _loss(alone, batch, rounds).backward()  # type: ignore[no-untyped-call]
        _loss(together, batch.chunk(ranks)[rank], rounds).backward()  # type: ignore[no-untyped-call]
        worst = max([worst, *_gaps(gradients(alone), gradients(together))])
        for optimizer in optimizers:
            optimizer.step()
    gap = torch.tensor(worst)
    dist.all_reduce(gap, dist.ReduceOp.MAX)
    return gap.item()


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    """The whole gradient of each weight; NaN where there is none. Every process calls it."""
    emitted, _ = emitted_module(model)
    gradients_by_name = {}
    for name, parameter in emitted.named_parameters():
        gradient = parameter.grad
        if gradient is None:
            gradient = torch.full_like(parameter, torch.nan)
        gradients_by_name[name] = (
            gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
        )
    return gradients_by_name


def checkpoint_visits(model: CompiledModule) -> None:
    """Keep the inputs of each visit alone, and compute the rest again in the backward pass."""
    for name in model.graph.blocks:
        block = model.get_submodule(name)
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


@contextmanager
def process_group(folder: Path, rank: int, processes: int) -> Iterator[None]:
    """This process as one of several on the same machine, which meet in ``folder``."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder.resolve()}/meeting",
        rank=rank,
        world_size=processes,
        timeout=timedelta(seconds=START_SECONDS),
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def check_here(folder: Path, rank: int, processes: int) -> None:
    """One process's share of the check; the first writes the gaps to ``folder``."""
    torch.set_num_threads(1)
    with process_group(folder, rank, processes):
        spec = check_spec()
        gaps = {
            name: gradient_gap(spread, spec) for name, spread in ways_to_spread(processes).items()
        }
        if rank == 0:
            (folder / RESULT).write_text(json.dumps(gaps), encoding="utf-8")


def _fresh(spec: ModelSpec, seed: int) -> CompiledModule:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = to_torch(spec)
    checkpoint_visits(model)
    return model


def _loss(model: nn.Module, batch: torch.Tensor, rounds: Rounds) -> torch.Tensor:
    logits = model(batch[:, :-1], rounds=rounds)
    return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def _gaps(
    expected: Mapping[str, torch.Tensor], actual: Mapping[str, torch.Tensor]
) -> Iterator[float]:
    for name, gradient in expected.items():
        difference = (gradient - actual[name]).abs().max() / gradient.abs().max()
        yield float(difference.nan_to_num(torch.inf))


if __name__ == "__main__":
    check_here(Path(sys.argv[1]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    end_process(0)


CHECK = "rinsc.backends.torch.distributed_check"
PROCESSES = 2
TIMEOUT_SECONDS = 180.0
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class GradientRow:
    """One way to spread a model: how far its gradients are from those of one process, relative to
    the largest of a weight, and how far they may be."""

    what: str
    difference: float
    limit: float = GRADIENT_LIMIT

    @property
    def passed(self) -> bool:
        return self.difference <= self.limit  # False for NaN


def check_gradients(*, timeout_seconds: float = TIMEOUT_SECONDS) -> list[GradientRow]:
    """Gradients of two processes under DDP and FSDP2 against those of one.

    Raises `RinscError` where the processes cannot start, fail, or do not end in time; none of them
    outlives the call.
    """
    with temporary_folder() as folder:
        processes = [_start(folder, rank) for rank in range(PROCESSES)]
        try:
            _wait(processes, folder, time.monotonic() + timeout_seconds)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        gaps = read_json(folder / RESULT)
        return [GradientRow(what, gap) for what, gap in gaps.items()]


def _start(folder: Path, rank: int) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-P",
        "-m",
        CHECK,
        str(folder),
    ]
    with _errors(folder, rank).open("wb") as errors:
        return subprocess.Popen(
            command,
            env=_environment(rank),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )


def _environment(rank: int) -> Mapping[str, str]:
    """The processes talk over the loopback interface, unless the user named another."""
    variables = {"RANK": str(rank), "WORLD_SIZE": str(PROCESSES)}
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    default = {"GLOO_SOCKET_IFNAME": loopback} if loopback else {}
    return {**default, **os.environ, **variables}


def _wait(processes: list[subprocess.Popen[bytes]], folder: Path, until: float) -> None:
    """Until all have ended well; raises `RinscError` at the first that has not."""
    while True:
        states = [process.poll() for process in processes]
        for rank, state in enumerate(states):
            if state:
                raise _failed(f"process {rank} failed: {_last_error(folder, rank)}")
        if all(state == 0 for state in states):
            return
        if time.monotonic() > until:
            raise _failed("the processes did not end in time")
        time.sleep(POLL_SECONDS)


def _errors(folder: Path, rank: int) -> Path:
    return folder / f"errors-{rank}.txt"


def _last_error(folder: Path, rank: int) -> str:
    """The line in which Python says what was raised."""
    text = _errors(folder, rank).read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line and not line[0].isspace()]
    named = [line for line in lines if "Error" in line.partition(":")[0]]
    return (named or lines or ["it says nothing"])[-1][:300]


def _failed(message: str) -> RinscError:
    hint = (
        "two processes of this machine have to reach each other with PyTorch's gloo; see that "
        "GLOO_SOCKET_IFNAME names a network interface that is up, such as lo"
    )
    return RinscError("distributed-failed", message, hint=hint)
