"""The block graph: nodes, building, passes, rounds."""

from rinsc.graph.build import PASSES, Pass, build_graph, require_graph, run_passes
from rinsc.graph.nodes import Block, BlockGraph, Input, Join, Loop, Output, Visit, drawers
from rinsc.graph.passes import at_rounds, unroll
from rinsc.graph.rounds import (
    CheckedRounds,
    Rounds,
    RoundsWarning,
    beyond_training,
    plain_rounds,
    resolve_rounds,
    rounds_in_words,
    rounds_up_to,
    several_rounds,
    trained_rounds,
)
from rinsc.graph.towers_graph import TowersGraph, tower_rounds, with_join
from rinsc.graph.verify import verified


def _svg(graph: BlockGraph | TowersGraph) -> str:
    from rinsc.graph.draw.svg import to_svg

    return to_svg(graph, {})


drawers.append(_svg)

__all__ = [
    "PASSES",
    "Block",
    "BlockGraph",
    "CheckedRounds",
    "Input",
    "Join",
    "Loop",
    "Output",
    "Pass",
    "Rounds",
    "RoundsWarning",
    "TowersGraph",
    "Visit",
    "at_rounds",
    "beyond_training",
    "build_graph",
    "plain_rounds",
    "require_graph",
    "resolve_rounds",
    "rounds_in_words",
    "rounds_up_to",
    "run_passes",
    "several_rounds",
    "tower_rounds",
    "trained_rounds",
    "unroll",
    "verified",
    "with_join",
]
