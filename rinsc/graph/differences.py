"""How two models differ, block by block, in words for an error."""

from __future__ import annotations

from rinsc.errors import plural
from rinsc.graph.build import build_graph
from rinsc.graph.nodes import Block, BlockGraph
from rinsc.spec import ModelSpec
from rinsc.spec.model import dimensions

MOST = 8  # differences that are told


def model_differences(left: ModelSpec, right: ModelSpec) -> list[str]:
    """What differs from ``left`` to ``right``: blocks, then dimensions, then the schedule."""
    graphs = build_graph(left), build_graph(right)
    found = [*_blocks(*graphs), *_dimensions(left, right)]
    if not found:
        same = graphs[0].visit_counts() == graphs[1].visit_counts()
        what = "options of its repeats differ" if same else "its blocks are visited in another way"
        found = [f"{what}: '{right.text}', not '{left.text}'"]
    more = [f"and {len(found) - MOST} more"] if len(found) > MOST else []
    return [*found[:MOST], *more]


def _blocks(left: BlockGraph, right: BlockGraph) -> list[str]:
    found = []
    for name in sorted(left.blocks.keys() | right.blocks.keys()):
        before, now = left.blocks.get(name), right.blocks.get(name)
        if before is None or now is None:
            found.append(f"block {name} is {'new' if before is None else 'gone'}")
        elif before != now:
            found.append(f"block {name} has {_words(now)}, not {_words(before)}")
    return found


def _words(block: Block) -> str:
    tie = "" if block.tie is None else f" with one {block.tie}"
    return f"{plural(block.layers, 'layer')} of kind {block.kind}{tie}"


def _dimensions(left: ModelSpec, right: ModelSpec) -> list[str]:
    before, now = dimensions(left), dimensions(right)
    return [
        f"{name} is {now[name]}, not {before[name]}"
        for name in before
        if name in now and now[name] != before[name]
    ]
