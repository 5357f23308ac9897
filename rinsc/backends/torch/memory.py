"""Refuse what memory cannot hold, before any of it is allocated."""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from rinsc.cost import memory, stored_params
from rinsc.cost.memory import Checkpointing, Precision
from rinsc.errors import LoweringError, Problem
from rinsc.graph import BlockGraph, Rounds

BYTES_PER_PARAM = 4
TRAINED_BYTES_PER_PARAM = 4 * BYTES_PER_PARAM  # weight, gradient and two moments of AdamW
# What keeps fewer activations, what recomputes least first.
CHEAPER: dict[Checkpointing, tuple[Checkpointing, ...]] = {
    "none": ("round", "visit"),
    "round": ("visit",),
    "visit": (),
}
_TRIED = re.compile(r"tried to allocate (\d+(?:\.\d+)? \w+)", re.IGNORECASE)


def require_memory(graph: BlockGraph) -> None:
    """Raises `LoweringError` when the weights alone exceed the machine's memory."""
    needed = stored_params(graph) * BYTES_PER_PARAM
    available = total_memory(torch.device("cpu"))
    if needed > available:
        message = f"the weights take {_gib(needed)}; memory is {_gib(available)}"
        hint = "use smaller dimensions, or device='meta' for shapes and costs alone"
        raise LoweringError(Problem("does-not-fit", message, hint=hint))


def require_training_memory(
    graph: BlockGraph,
    seq: int,
    *,
    batch: int,
    rounds: Rounds = None,
    precision: Precision = "fp32",
    checkpointing: Checkpointing = "none",
    device: torch.device | str = "cpu",
    processes: int = 1,
) -> None:
    """Raises `LoweringError` when a training step exceeds the memory of the device.

    Weights, gradients and optimizer state are held in fp32, a share of each on every one of
    ``processes``; activations in ``precision``, at the rounds that are written or asked. The hint
    says what would fit.
    """
    available = total_memory(torch.device(device))
    held = stored_params(graph) * TRAINED_BYTES_PER_PARAM // processes

    def activation_bytes(batch: int, seq: int, how: Checkpointing = checkpointing) -> int:
        report = memory(
            graph, seq, batch=batch, rounds=rounds, precision=precision, checkpointing=how
        )
        return report.activation_bytes

    if held + activation_bytes(batch, seq) <= available:
        return
    message = (
        f"training takes {_gib(held)} for weights, gradients and optimizer state and "
        f"{_gib(activation_bytes(batch, seq))} for activations; memory is {_gib(available)}"
    )
    hints = []
    for how in CHEAPER[checkpointing]:
        if held + activation_bytes(batch, seq, how) <= available:
            hints.append(f"checkpointing by {how} would fit")
            break
    sequences = _most(batch, lambda n: held + activation_bytes(n, seq) <= available)
    tokens = _most(seq, lambda n: held + activation_bytes(1, n) <= available)
    if sequences:
        hints.append(f"a batch of {sequences} at {seq} tokens a sequence would fit")
        parts = next(n for n in range(1, batch + 1) if batch % n == 0 and batch // n <= sequences)
        hints.append(f"or this one in {parts} parts (accumulate)")
    elif tokens:
        hints.append(f"a batch of 1 at {tokens} tokens a sequence would fit")
    if not hints:
        params = processes * available // TRAINED_BYTES_PER_PARAM
        hints = [f"use smaller dimensions: fewer than {params} parameters can be trained here"]
        needed = -(-stored_params(graph) * TRAINED_BYTES_PER_PARAM // max(1, available // 2))
        hints += [f"or shard it over {needed} devices or more"] if processes < needed else []
    raise LoweringError(Problem("does-not-fit", message, hint="; ".join(hints)))


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to the limit that fits, where all below it do; 0 where none does."""
    return bisect_left(range(1, limit + 1), True, key=lambda n: not fits(n))


def total_memory(device: torch.device) -> int:
    """Bytes of the GPU, or of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@contextmanager
def allocation_errors() -> Iterator[None]:
    """What an allocator raises inside, where memory is used up, becomes a `LoweringError`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_of_allocator(error):
            raise
        tried = _TRIED.search(str(error))
        amount = f": {tried[1]} more could not be allocated" if tried else ""
        hint = "use smaller dimensions, shorter sequences or fewer of them in a step"
        raise LoweringError(
            Problem("does-not-fit", f"memory is used up{amount}", hint=hint)
        ) from None


def _is_of_allocator(error: Exception) -> bool:
    known = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, known) or "DefaultCPUAllocator" in str(error)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
