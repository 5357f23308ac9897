"""Bytes: weights, gradients, optimizer state, key-value cache, and an estimate of activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rinsc.cost.params import stored_params, visits_of_blocks
from rinsc.errors import Problem, SpecError, did_you_mean
from rinsc.graph import BlockGraph, Rounds
from rinsc.layers import trace_programs
from rinsc.ops import Attention, at_sizes
from rinsc.program import Program, Value

Precision = Literal["fp32", "bf16"]
BYTES: dict[Precision, int] = {"fp32": 4, "bf16": 2}
MASTER_BYTES = 4  # gradients and optimizer state stay in fp32


@dataclass(frozen=True)
class MemoryReport:
    """Bytes of one training step, and of the cache that generation keeps.

    ``activation_bytes`` is an estimate: what the backward pass needs of each operation's inputs
    and outputs, each tensor once, without checkpointing and without the allocator's slack.
    """

    precision: Precision
    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    kv_bytes_per_token: int
    activation_bytes: int


def memory(
    graph: BlockGraph,
    seq: int,
    *,
    batch: int = 1,
    rounds: Rounds = None,
    precision: Precision = "fp32",
) -> MemoryReport:
    """The bytes of a model that trains with AdamW on ``batch`` sequences of ``seq`` tokens.

    Weights are stored in ``precision``, and so are the cache and the activations.
    """
    params = stored_params(graph)
    width = _element_bytes(precision)
    return MemoryReport(
        precision=precision,
        weight_bytes=params * width,
        gradient_bytes=params * MASTER_BYTES,
        optimizer_bytes=params * 2 * MASTER_BYTES,  # AdamW: two moments
        kv_bytes_per_token=_over_executed_layers(graph, rounds, kv_elements_per_token) * width,
        activation_bytes=_activation_elements(graph, batch, seq, rounds) * width,
    )


def _element_bytes(precision: Precision) -> int:
    if precision in BYTES:
        return BYTES[precision]
    message = f"'{precision}' is not a precision"
    hint = did_you_mean(str(precision), BYTES)
    raise SpecError(Problem("unknown-precision", message, place="precision", hint=hint))


def kv_elements_per_token(program: Program) -> int:
    """Keys and values that the attention of one layer run keeps for each token."""
    kept = 0
    for node in program.nodes:
        if isinstance(node.op, Attention):
            for value in node.inputs[1:]:
                kept += math.prod(at_sizes(value.shape, (("batch", 1), ("seq", 1))))
    return kept


def _over_executed_layers(
    graph: BlockGraph, rounds: Rounds, count: Callable[[Program], int]
) -> int:
    """Sum of ``count`` over every layer of every visit."""
    layer = trace_programs(graph.spec).layer
    total = 0
    for name, times in visits_of_blocks(graph, rounds).items():
        block = graph.blocks[name]
        total += times * block.layers * count(layer[block.kind])
    return total


def saved_elements(program: Program, batch: int, seq: int) -> int:
    """Elements that one run of the program keeps for its backward pass, each tensor once."""
    kept: set[Value] = set()
    for node in program.nodes:
        if node.op.saves_inputs:
            kept.update(node.inputs)
        if node.op.saves_output:
            kept.add(node.output)
    sizes = (("batch", batch), ("seq", seq))
    return sum(math.prod(at_sizes(value.shape, sizes)) for value in kept)


def _activation_elements(graph: BlockGraph, batch: int, seq: int, rounds: Rounds) -> int:
    programs = trace_programs(graph.spec)
    logits = programs.head.outputs["logits"]
    loss = math.prod(at_sizes(logits.shape, (("batch", batch), ("seq", seq))))
    frame = sum(saved_elements(p, batch, seq) for p in (programs.embed, programs.head))
    layers = _over_executed_layers(graph, rounds, lambda p: saved_elements(p, batch, seq))
    return layers + frame + loss
