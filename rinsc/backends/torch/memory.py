"""Refuse what memory cannot hold, before any of it is allocated."""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from rinsc.cost import memory, stored_params
from rinsc.cost.memory import Checkpointing
from rinsc.cost.params import block_params
from rinsc.cost.storages import FULL
from rinsc.errors import LoweringError, plural
from rinsc.formats import TrainingPrecision
from rinsc.graph import BlockGraph, Rounds

# Where Linux tells a container's limit: control groups of version 2, and 1.
CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
BYTES_PER_PARAM = 4
TRAINED_BYTES_PER_PARAM = 4 * BYTES_PER_PARAM  # weight, gradient and two moments of AdamW
GATHERED_BYTES_PER_PARAM = 2 * BYTES_PER_PARAM  # of what is not in shards: weight and gradient
LOGIT_BYTES = 12  # logit, its log-probability and its gradient, in fp32
# What a process takes besides: 530 MiB with PyTorch and transformers loaded (or CUDA's context),
# and what an allocator cannot give back. Measured over kinds on a CPU it was 20 to 370 MiB, and at
# most 370 MiB + 30 % of the activations are assumed; a GPU's allocator is not measured.
PROCESS_BYTES = 900 << 20
ALLOCATOR_SHARES = {"cpu": 0.3, "cuda": 0.1}
MAX_DEVICES = 4096  # that are advised
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
        raise LoweringError("does-not-fit", message, hint=hint)


@dataclass(frozen=True)
class TrainingStep:
    """A step of ``batch`` sequences of ``seq`` tokens, and how it is cut up.

    Each of ``processes`` computes its share of the batch in ``accumulate`` parts; with ``shard``
    it also holds its share alone of weights, gradients and optimizer state, which are in fp32, but
    for what is gathered at once: embedding and head, one block, and with ``pins`` all that are
    visited more than once. Activations are in ``precision``, at the rounds that are written or
    asked.
    """

    graph: BlockGraph
    seq: int
    batch: int
    rounds: Rounds = None
    precision: TrainingPrecision = "fp32"
    checkpointing: Checkpointing = "none"
    accumulate: int = 1
    processes: int = 1
    shard: bool = False
    pins: bool = True
    device_type: str = "cpu"

    @property
    def shards(self) -> int:
        return self.processes if self.shard else 1

    @property
    def parts(self) -> int:
        """In how many parts the batch is computed, one after another or beside each other."""
        return self.accumulate * self.processes

    @property
    def held_bytes(self) -> int:
        """Of one process: weights, gradients and the two moments of AdamW."""
        shared = stored_params(self.graph) * TRAINED_BYTES_PER_PARAM // self.shards
        return shared + self._gathered_params * GATHERED_BYTES_PER_PARAM

    @property
    def _gathered_params(self) -> int:
        """Of what is whole on every process at one time, where the rest is in shards."""
        if self.shards == 1:
            return 0
        of_blocks = block_params(self.graph)
        pinned = self.graph.recursed_blocks() if self.pins else []
        one = max((of_blocks[name] for name in of_blocks if name not in pinned), default=0)
        root = stored_params(self.graph) - sum(of_blocks.values())
        return root + sum(of_blocks[name] for name in pinned) + one

    @property
    def activation_bytes(self) -> int:
        """Of one process, for one part of the batch: what is kept for the backward pass, and what
        the loss adds to the logits."""
        sequences = self.batch // self.parts
        logits = sequences * self.seq * self.graph.spec.vocab_size
        report = memory(
            self.graph,
            self.seq,
            batch=sequences,
            rounds=self.rounds,
            precision=self.precision,
            checkpointing=self.checkpointing,
        )
        return report.activation_bytes + logits * (LOGIT_BYTES - FULL)

    @property
    def allowance_bytes(self) -> int:
        """Of the process itself and its allocator, on the safe side."""
        share = ALLOCATOR_SHARES.get(self.device_type, ALLOCATOR_SHARES["cuda"])
        return PROCESS_BYTES + round(share * self.activation_bytes)

    @property
    def needed_bytes(self) -> int:
        return self.held_bytes + self.activation_bytes + self.allowance_bytes


def require_training_memory(step: TrainingStep, device: torch.device | str = "cpu") -> None:
    """Raises `LoweringError` when a step may exceed the memory of the device of one process.

    It errs on the safe side: `TrainingStep.allowance_bytes` are added to what is live at once. The
    hint says what would fit.
    """
    available = total_memory(torch.device(device))
    step = replace(step, device_type=torch.device(device).type)
    if step.needed_bytes <= available:
        return
    message = (
        f"training takes {_gib(step.held_bytes)} for weights, gradients and optimizer state, "
        f"at most {_gib(step.activation_bytes)} for activations and up to "
        f"{_gib(step.allowance_bytes)} for the process and its allocator; "
        f"memory is {_gib(available)}"
    )
    hints = list(_cheaper(step, available)) or list(_smaller(step, available))
    raise LoweringError("does-not-fit", message, hint="; ".join(hints))


def _cheaper(step: TrainingStep, available: int) -> Iterator[str]:
    """Settings with which the same model would fit."""

    def fits(changed: TrainingStep) -> bool:
        return changed.needed_bytes <= available

    for how in CHEAPER[step.checkpointing]:
        if fits(replace(step, checkpointing=how)):
            yield f"checkpointing by {how} would fit"
            break
    parts, of_part = step.parts, step.batch // step.parts
    sequences = _most(of_part, lambda n: fits(replace(step, batch=n * parts)))
    if sequences:
        yield f"a batch of {sequences * parts} at {plural(step.seq, 'token')} a sequence would fit"
        of_process = step.batch // step.processes
        cuts = (n for n in range(1, of_process + 1) if of_process % n == 0)
        accumulate = next(n for n in cuts if of_process // n <= sequences)
        yield f"or this one in {plural(accumulate, 'part')} (accumulate)"
        return
    tokens = _most(step.seq, lambda n: fits(replace(step, batch=parts, seq=n)))
    if tokens:
        yield f"a batch of {parts} at {plural(tokens, 'token')} a sequence would fit"


def _smaller(step: TrainingStep, available: int) -> Iterator[str]:
    """Models that would fit, and processes over which this one would."""
    params = step.shards * max(0, available - PROCESS_BYTES) // TRAINED_BYTES_PER_PARAM
    yield f"use smaller dimensions: fewer than {plural(params, 'parameter')} can be trained here"

    def fits(devices: int) -> bool:
        """With a sequence on each."""
        changed = replace(step, processes=devices, batch=devices, accumulate=1, shard=True)
        return changed.needed_bytes <= available

    if fits(MAX_DEVICES):
        needed = 1 + _most(MAX_DEVICES, lambda n: not fits(n))
        yield f"or shard it over {plural(needed, 'device')} or more, with a sequence on each"


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to the limit that fits, where all below it do; 0 where none does."""
    return bisect_left(range(1, limit + 1), True, key=lambda n: not fits(n))


def total_memory(device: torch.device) -> int:
    """Bytes of the GPU; of the machine, or of the container that the process is in."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_container_limits()])


def _container_limits() -> Iterator[int]:
    for file in CONTAINER_LIMITS:
        with suppress(OSError, ValueError):  # "max" where there is none
            yield int(file.read_text(encoding="ascii"))


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
        raise LoweringError("does-not-fit", f"memory is used up{amount}", hint=hint) from None


def _is_of_allocator(error: Exception) -> bool:
    known = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, known) or "DefaultCPUAllocator" in str(error)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
