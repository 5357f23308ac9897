"""FLOPs of a graph, exact, split by part and by block."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from rinsc.cost.checks import require_counts, require_sequence
from rinsc.cost.convention import PYTORCH, FlopConvention
from rinsc.cost.params import visits_of_blocks
from rinsc.graph import BlockGraph, Rounds, build_graph
from rinsc.layers import trace_programs
from rinsc.ops import at_sizes
from rinsc.program import Program
from rinsc.spec import ModelSpec


@dataclass(frozen=True)
class FlopSplit:
    """Forward FLOPs of one batch, by part of the layers and by block; both sum to ``total``."""

    by_part: dict[str, int]
    by_block: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.by_part.values())


def program_flops(
    program: Program, batch: int, seq: int, convention: FlopConvention
) -> Counter[str]:
    """FLOPs of one run of a program, by part."""
    sizes = (("batch", batch), ("seq", seq))
    flops: Counter[str] = Counter()
    for node in program.nodes:
        shapes = [at_sizes(value.shape, sizes) for value in node.inputs]
        flops[node.part] += node.op.matmul_flops(*shapes, causal=convention.causal)
    return flops


def forward_flops(
    graph: BlockGraph,
    seq: int,
    *,
    batch: int = 1,
    rounds: Rounds = None,
    convention: FlopConvention = PYTORCH,
) -> FlopSplit:
    """Forward FLOPs of ``batch`` sequences of ``seq`` tokens."""
    programs = trace_programs(graph.spec)
    by_part: Counter[str] = Counter()
    by_block: Counter[str] = Counter()
    layer_flops = {
        kind: program_flops(program, batch, seq, convention)
        for kind, program in programs.layer.items()
    }
    for name, times in visits_of_blocks(graph, rounds).items():
        block = graph.blocks[name]
        for part, flops in layer_flops[block.kind].items():
            by_part[part] += times * block.layers * flops
            by_block[name] += times * block.layers * flops
    frames = [programs.embed, programs.head] if convention.head else [programs.embed]
    for program in frames:
        flops_by_part = program_flops(program, batch, seq, convention)
        by_part.update(flops_by_part)
        by_block["embedding and head"] += sum(flops_by_part.values())
    return FlopSplit(dict(by_part), dict(by_block))


def training_flops(
    spec: ModelSpec | BlockGraph,
    seq: int,
    *,
    batch: int = 1,
    rounds: Rounds = None,
    convention: FlopConvention = PYTORCH,
) -> int:
    """FLOPs of one training step over ``batch`` sequences of ``seq`` tokens.

    Raises `SpecError` for counts that are not positive and for a ``seq`` beyond the context.
    """
    graph = spec if isinstance(spec, BlockGraph) else build_graph(spec)
    require_sequence(graph.spec, seq)
    require_counts(batch=batch)
    forward = forward_flops(graph, seq, batch=batch, rounds=rounds, convention=convention)
    return forward.total * convention.training_factor


def training_flops_per_token(
    spec: ModelSpec | BlockGraph,
    seq: int,
    *,
    rounds: Rounds = None,
    convention: FlopConvention = PYTORCH,
) -> int:
    """Training FLOPs of a sequence over its tokens; exact, since every term has the factor seq."""
    return training_flops(spec, seq, rounds=rounds, convention=convention) // seq
