"""Parameters: stored once, executed as often as their block is visited."""

from __future__ import annotations

from collections import Counter

from rinsc.graph import BlockGraph, Rounds, resolve_rounds
from rinsc.layers import trace_programs


def visits_of_blocks(graph: BlockGraph, rounds: Rounds = None) -> Counter[str]:
    """How often each block is visited; raises `GraphError` for rounds that do not fit."""
    return graph.visit_counts(resolve_rounds(graph, rounds))


def block_params(graph: BlockGraph) -> dict[str, int]:
    """Parameters of each block, stored once."""
    layer = trace_programs(graph.spec).layer
    return {
        block.name: block.layers * layer[block.kind].param_count for block in graph.blocks.values()
    }


def frame_params(graph: BlockGraph) -> int:
    """Parameters outside the blocks: embedding, last norm, head where it is not tied."""
    programs = trace_programs(graph.spec)
    return programs.embed.param_count + programs.head.param_count


def stored_params(graph: BlockGraph) -> int:
    """Parameters in memory and on disk."""
    return frame_params(graph) + sum(block_params(graph).values())


def executed_params(graph: BlockGraph, rounds: Rounds = None) -> int:
    """Parameters with each block's counted once a visit: those of the unshared model."""
    per_block = block_params(graph)
    visits = visits_of_blocks(graph, rounds)
    return frame_params(graph) + sum(visits[name] * count for name, count in per_block.items())
