"""Names and shapes of a model's weights: the same in every module, file and runtime."""

from __future__ import annotations

from collections.abc import Iterable

from rinsc.graph import BlockGraph
from rinsc.layers.kind import trace_programs
from rinsc.ops import Sizes


def weight_shapes(graph: BlockGraph) -> dict[str, Sizes]:
    """Shape of every weight by its name: ``embedding.weight``, ``A.0.query.weight``."""
    programs = trace_programs(graph.spec)
    shapes = {param.name: param.shape for param in programs.embed.params}
    for block in graph.blocks.values():
        for prefix in layer_prefixes(block.name, block.layers):
            for param in programs.layer[block.kind].params:
                shapes[f"{prefix}.{param.name}"] = param.shape
    return shapes | {param.name: param.shape for param in programs.head.params}


def layer_prefixes(block: str, layers: int) -> Iterable[str]:
    """``A.0``, ``A.1``, …: where the weights of a block's layers stand."""
    return (f"{block}.{index}" for index in range(layers))
