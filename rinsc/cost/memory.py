"""Bytes: weights, gradients, optimizer state, key-value cache, and an estimate of activations."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from rinsc.cost.checks import checked_counts
from rinsc.cost.counts import RunCounts, exactly, run_counts
from rinsc.cost.params import stored_params
from rinsc.cost.runs import FRAME, ProgramRuns, program_runs
from rinsc.errors import Problem, SpecError, did_you_mean
from rinsc.graph import BlockGraph, Loop, Rounds, resolve_rounds
from rinsc.layers import trace_loop, trace_programs
from rinsc.ops import Attention, at_sizes
from rinsc.program import Node, Program, Value

Precision = Literal["fp32", "bf16"]
Checkpointing = Literal["none", "visit", "round"]
BYTES: dict[Precision, int] = {"fp32": 4, "bf16": 2}
MASTER_BYTES = 4  # gradients and optimizer state stay in fp32


@dataclass(frozen=True)
class MemoryReport:
    """Bytes of one training step, and of the cache that generation keeps.

    ``activation_bytes`` is an estimate: what the backward pass needs of each operation's inputs
    and outputs, each tensor once, without the allocator's slack. Rounds without gradients keep
    nothing. With checkpointing of visits or rounds, each keeps the state that it was given, and the
    largest of them is there once more while it is recomputed.
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
    checkpointing: Checkpointing = "none",
) -> MemoryReport:
    """The bytes of a model that trains with AdamW on ``batch`` sequences of ``seq`` tokens.

    Weights are stored in ``precision``, and so are the cache and the activations. Rounds are those
    written, where none are asked, also where training draws them.
    """
    seq, batch = checked_counts(seq=seq, batch=batch)
    params = stored_params(graph)
    resolved = resolve_rounds(graph, rounds)
    counts = run_counts(graph, resolved)
    width = _element_bytes(precision)
    return MemoryReport(
        precision=precision,
        weight_bytes=params * width,
        gradient_bytes=params * MASTER_BYTES,
        optimizer_bytes=params * 2 * MASTER_BYTES,  # AdamW: two moments
        kv_bytes_per_token=_kv_elements(graph, counts) * width,
        activation_bytes=_activation_elements(graph, resolved, batch, seq, checkpointing) * width,
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


def _kv_elements(graph: BlockGraph, counts: RunCounts) -> int:
    """Those of every slot: one a layer run, or one for all rounds of a repeat that shares it."""
    layer = trace_programs(graph.spec).layer
    return sum(
        int(counts.blocks[name].cache_slots)
        * block.layers
        * kv_elements_per_token(layer[block.kind])
        for name, block in graph.blocks.items()
    )


def saved_elements(program: Program, batch: int, seq: int) -> int:
    """Elements that one run of the program keeps for its backward pass, each tensor once.

    What has a fixed shape is a weight, or a view of one, and is kept anyway.
    """
    kept = {value for node in program.nodes for value in _kept(node)}
    sizes = (("batch", batch), ("seq", seq))
    return sum(
        math.prod(at_sizes(value.shape, sizes))
        for value in kept
        if any(isinstance(dim, str) for dim in value.shape)
    )


def _kept(node: Node) -> Iterator[Value]:
    if node.op.saves_inputs:
        yield from node.inputs
    if node.op.saves_output:
        yield node.output


def _activation_elements(
    graph: BlockGraph,
    rounds: Mapping[str, int],
    batch: int,
    seq: int,
    checkpointing: Checkpointing,
) -> int:
    logits = trace_programs(graph.spec).head.outputs["logits"]
    loss = math.prod(at_sizes(logits.shape, (("batch", batch), ("seq", seq))))
    counts = run_counts(graph, rounds)
    saved = loss + sum(_saved(each, batch, seq) for each in program_runs(graph, counts))
    if checkpointing == "none":
        return saved
    of_units = _visits if checkpointing == "visit" else _rounds
    units = list(of_units(graph, rounds, batch, seq))
    state = batch * seq * graph.spec.width
    dropped = sum(times * (elements - state) for times, elements in units)
    return saved - dropped + max((elements for times, elements in units if times), default=0)


def _saved(each: ProgramRuns, batch: int, seq: int) -> int:
    return int(each.with_grad) * saved_elements(each.program, batch, seq)


Unit = tuple[int, int]  # how often it runs with gradients, and what one run keeps, in elements


def _visits(graph: BlockGraph, rounds: Mapping[str, int], batch: int, seq: int) -> Iterator[Unit]:
    """The visits of each block, recomputed one at a time."""
    counts = run_counts(graph, rounds)
    of_block: Counter[str] = Counter()
    for each in program_runs(graph, counts):
        of_block[each.owner] += _saved(each, batch, seq)
    for name, runs in counts.blocks.items():
        times = int(runs.visits_with_grad)
        yield times, of_block[name] // max(1, times)


def _rounds(graph: BlockGraph, rounds: Mapping[str, int], batch: int, seq: int) -> Iterator[Unit]:
    """The rounds of each repeat that stands in no other, recomputed one at a time."""
    for loop in graph.steps():
        if isinstance(loop, Loop):
            inside = program_runs(loop.body, run_counts(loop.body, rounds))
            kept = sum(_saved(each, batch, seq) for each in inside if each.owner != FRAME)
            around = trace_loop(graph.spec, loop)
            own = [each for each in (around.before, around.after) if each is not None]
            kept += sum(saved_elements(program, batch, seq) for program in own)
            yield int(exactly(loop, rounds).with_grad), kept
