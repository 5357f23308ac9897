"""Names and shapes of a model's weights: the same in every module, file and runtime."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rinsc.graph import Block, BlockGraph, verified
from rinsc.layers.loops import loop_prefix, trace_loop
from rinsc.layers.tracing import Programs, trace_programs
from rinsc.ops import Param, Sizes
from rinsc.ops.program import Node

LAYERS = "layers"  # of a block that owns weights beside those of its layers
TIED = "tied"


@dataclass(frozen=True)
class BlockWeights:
    """Where the weights of a block stand: ``A.0.`` and on.

    In a block that owns weights beside those of its layers they stand in ``A.layers.0.``, those
    that all layers share in ``A.tied.``, and those of the whole visit in ``A.``.
    """

    block: Block
    programs: Programs

    @property
    def framed(self) -> bool:
        """Whether the block owns weights, or does something, beside its layers."""
        kind = self.block.kind
        tied = self.block.tie is not None
        return tied or kind in self.programs.enter or kind in self.programs.leave

    def layer(self, index: int) -> str:
        name = self.block.name
        return f"{name}.{LAYERS}.{index}." if self.framed else f"{name}.{index}."

    def prefix(self, index: int, node: Node) -> str:
        """Where the weights of an operation of the layer ``index`` stand."""
        return f"{self.block.name}.{TIED}." if self.is_tied(node) else self.layer(index)

    def is_tied(self, node: Node) -> bool:
        return self.block.tie is not None and node.part == self.block.tie

    def params(self) -> Iterator[tuple[str, Param]]:
        """Every weight with its name."""
        block, programs = self.block, self.programs
        for program in (programs.enter.get(block.kind), programs.leave.get(block.kind)):
            for param in program.params if program else ():
                yield f"{block.name}.{param.name}", param
        for index in range(block.layers):
            for node in programs.layers[block.name][index].nodes:
                if index == 0 or not self.is_tied(node):
                    prefix = self.prefix(index, node)
                    yield from ((f"{prefix}{param.name}", param) for param in node.params)


def block_weights(graph: BlockGraph, name: str) -> BlockWeights:
    return BlockWeights(verified(graph).blocks[name], trace_programs(graph.spec))


def weight_shapes(graph: BlockGraph) -> dict[str, Sizes]:
    """Shape of every weight by its name: ``embedding.weight``, ``A.0.query.weight``."""
    return {name: param.shape for name, param in weights(graph)}


def weights(graph: BlockGraph) -> Iterator[tuple[str, Param]]:
    """Every weight of a model with its name: embedding, blocks, repeats, head."""
    programs = trace_programs(verified(graph).spec)
    yield from ((param.name, param) for param in programs.embed.params)
    for name in graph.blocks:
        yield from BlockWeights(graph.blocks[name], programs).params()
    for loop in {loop.name: loop for loop in graph.loops()}.values():
        for program in trace_loop(graph.spec, loop).every:
            for param in program.params:
                yield f"{loop_prefix(loop.name)}{param.name}", param
    yield from ((param.name, param) for param in programs.head.params)
