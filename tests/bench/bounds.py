"""What a token must read at least, and how fast this machine reads.

A token that reads every weight from memory takes at least as long as the bytes touched take, a
block counted at each of its visits. Weights that stay in the processor's cache from one visit to
the next need to be read once: the bound of the unique bytes. A recursive model stands between
the two, or above both where it computes longer than it reads.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from rinsc.backends.onnx import OnnxModel
from rinsc.graph import BlockGraph, Visit, unroll

READ_BYTES = 2**28  # far more than any cache holds


@dataclass(frozen=True)
class TokenBytes:
    """Bytes of weights and cache that one token reads."""

    touched: int
    unique: int


def read_bytes_per_second() -> float:
    """Of one thread over an array in memory: the best of some readings."""
    torch.set_num_threads(1)
    array = torch.ones(READ_BYTES // 4)
    times = []
    for _ in range(8):
        start = time.thread_time()
        array.sum()
        times.append(time.thread_time() - start)
    return READ_BYTES / min(times)


def token_bytes(model: OnnxModel, graph: BlockGraph, rounds: int, past: int) -> TokenBytes:
    """What a token behind ``past`` others reads in a model of ``graph`` at these rounds.

    Of the embedding it reads a row, of the rotary tables one, which count as nothing.
    """
    visits = [step for step in unroll(graph, rounds).steps() if isinstance(step, Visit)]
    by_block = dict.fromkeys(graph.blocks, 0)
    others = 0
    for name, value in model.ir.graph.initializers.items():
        owner = name.partition(".")[0]
        size = 0 if value.const_value is None else value.const_value.nbytes
        if owner in by_block:
            by_block[owner] += size
        elif owner in ("head", "final_norm"):
            others += size
    spec = graph.spec
    slot = 2 * past * spec.kv_heads * (spec.width // spec.heads) * 4
    cache = sum(slot * graph.blocks[visit.block].layers for visit in visits)
    return TokenBytes(
        touched=sum(by_block[visit.block] for visit in visits) + others + cache,
        unique=sum(by_block.values()) + others + cache,
    )
