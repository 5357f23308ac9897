"""The block graph: nodes, building, passes, rounds."""

from rinsc.graph.build import build_graph
from rinsc.graph.nodes import Block, BlockGraph, Input, Loop, Output, Visit
from rinsc.graph.rounds import Rounds, resolve_rounds
from rinsc.graph.unroll import unroll

__all__ = [
    "Block",
    "BlockGraph",
    "Input",
    "Loop",
    "Output",
    "Rounds",
    "Visit",
    "build_graph",
    "resolve_rounds",
    "unroll",
]
