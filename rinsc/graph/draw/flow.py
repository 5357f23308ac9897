"""What Mermaid and DOT share: drawn nodes with identifiers, and loops that know their ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count, pairwise
from typing import TypeAlias

from rinsc.graph.draw.shorten import Elided, shorten
from rinsc.graph.draw.words import block_text, layers_text, params_text, times_text, visit_text
from rinsc.graph.nodes import BlockGraph, Visit
from rinsc.graph.verify import verified


@dataclass(frozen=True)
class FlowNode:
    """One box; ``block`` is None for a mark that stands for steps left out."""

    key: str
    block: str | None
    lines: tuple[str, ...]


@dataclass(frozen=True)
class FlowLoop:
    """One frame around what is repeated."""

    key: str
    name: str
    rounds: int
    options: str
    items: tuple[FlowItem, ...]

    @property
    def title(self) -> str:
        return " ".join(filter(None, (self.name, times_text(self.rounds), self.options)))


FlowItem: TypeAlias = FlowNode | FlowLoop


def flow(graph: BlockGraph, param_counts: Mapping[str, int]) -> tuple[FlowItem, ...]:
    """The items of a drawing in order; a block drawn before is marked as shared."""
    return _items(verified(graph), param_counts, count(1), set())


def nodes_in(items: tuple[FlowItem, ...]) -> Iterator[FlowNode]:
    for item in items:
        if isinstance(item, FlowNode):
            yield item
        else:
            yield from nodes_in(item.items)


def loops_in(items: tuple[FlowItem, ...]) -> Iterator[FlowLoop]:
    """Every loop, outer before inner."""
    for item in items:
        if isinstance(item, FlowLoop):
            yield item
            yield from loops_in(item.items)


def forward_edges(items: tuple[FlowItem, ...]) -> Iterator[tuple[str, str]]:
    """Keys of the nodes along which the state flows once, from ``input`` to ``output``."""
    yield from pairwise(["input", *(node.key for node in nodes_in(items)), "output"])


def back_edge(loop: FlowLoop) -> tuple[str, str]:
    """From the last node of a loop's body to the first."""
    keys = [node.key for node in nodes_in(loop.items)]
    return keys[-1], keys[0]


def _items(
    graph: BlockGraph, param_counts: Mapping[str, int], numbers: Iterator[int], seen: set[str]
) -> tuple[FlowItem, ...]:
    items: list[FlowItem] = []
    for step in shorten(graph):
        number = next(numbers)
        if isinstance(step, Visit):
            lines = _lines(graph, step, param_counts, shared=step.block in seen)
            items.append(FlowNode(f"visit{number}", step.block, lines))
            seen.add(step.block)
        elif isinstance(step, Elided):
            items.append(FlowNode(f"more{number}", None, (f"… {step.steps} more steps …",)))
        else:
            body = _items(step.body, param_counts, numbers, seen)
            items.append(FlowLoop(f"loop{number}", step.name, step.rounds, step.options.text, body))
    return tuple(items)


def _lines(
    graph: BlockGraph, visit: Visit, param_counts: Mapping[str, int], *, shared: bool
) -> tuple[str, ...]:
    block = graph.blocks[visit.block]
    own = "shared" if shared else params_text(param_counts[block.name])
    rest = (block_text(block, graph.spec), visit_text(visit))
    return (block.name, layers_text(block.layers), own, *filter(None, rest))
