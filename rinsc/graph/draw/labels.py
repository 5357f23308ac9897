"""Labels of every drawing: numbers and totals in words, long sequences shortened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from rinsc.errors import listed, plural
from rinsc.graph.nodes import Block, BlockGraph, Loop, Visit
from rinsc.graph.towers_graph import TowersGraph, verified_towers
from rinsc.graph.verify import verified
from rinsc.spec import ModelSpec

Drawn: TypeAlias = BlockGraph | TowersGraph  # what every drawing takes


def towers_of(graph: Drawn) -> Mapping[str, BlockGraph]:
    """The verified graph of each tower by name; the only one of a plain model has none."""
    if isinstance(graph, TowersGraph):
        return verified_towers(graph).towers
    return {"": verified(graph)}


def shared_text(graph: Drawn) -> str:
    """Which blocks several towers use, and where they meet; nothing where they do neither."""
    if not isinstance(graph, TowersGraph):
        return ""
    blocks = graph.spec.shared_blocks
    shared = [f"shared by towers: {listed(blocks, 8)}"] if blocks else []
    joins = [f"{name} joins {listed(towers, 8)}" for name, towers in joins_of(graph).items()]
    return "; ".join([*shared, *joins])


def joins_of(graph: Drawn) -> Mapping[str, tuple[str, ...]]:
    """The towers that meet in each join."""
    return graph.joins if isinstance(graph, TowersGraph) else {}


_UNITS = ("", " k", " M", " B", " T")


def short_number(number: int) -> str:
    """A count in at most four digits and a decimal unit: 950, 2.1 M, 124 M."""
    value = float(number)
    for unit in _UNITS:
        text = f"{value:.0f}" if not unit or value >= 99.95 else f"{value:.1f}"
        if float(text) < 1000 or unit == _UNITS[-1]:
            return text + unit
        value /= 1000
    raise AssertionError("the last unit always returns")


def layers_text(count: int) -> str:
    return plural(count, "layer")


def times_text(rounds: int) -> str:
    """The count of a loop, as arcs, edges and frames bear it."""
    return f"\N{MULTIPLICATION SIGN}{rounds}"


def visit_text(visit: Visit) -> str:
    """How a visit runs its layers; nothing for the usual way."""
    each = f"each {times_text(visit.each)}" if visit.each > 1 else ""
    return ", ".join(filter(None, (each, "reversed" if visit.reverse else "")))


def block_text(block: Block, spec: ModelSpec) -> str:
    """What is special about a block among those of its model; mostly nothing."""
    kind = block.kind if block.kind != spec.kind else ""
    return ", ".join(filter(None, (kind, f"{block.tie} tied" if block.tie else "")))


def params_text(count: int) -> str:
    return plural(count, "parameter", short_number(count))


def cut(words: str, length: int) -> str:
    """The words, shortened to ``length`` characters where they are longer."""
    return words if len(words) <= length else words[: max(length - 1, 0)] + "…"


def first_layers(graph: Drawn) -> dict[str, int]:
    """The physical layer, counted from 0, at which each block starts."""
    starts: dict[str, int] = {}
    total = 0
    for block in graph.blocks.values():
        starts[block.name] = total
        total += block.layers
    return starts


def caption(graph: Drawn, param_counts: Mapping[str, int]) -> str:
    """Totals in one line; parameters are those of the blocks, without embedding and head.

    Where no counts are given, there are none in the line.
    """
    layers = f"{layers_text(graph.stored_layers)} stored · {graph.executed_layers()} executed"
    shared = shared_text(graph)
    layers += f" · {shared}" if shared else ""
    if not param_counts:
        return layers
    params = sum(param_counts[name] for name in graph.blocks)
    return f"{params_text(params)} in blocks · {layers}"


MAX_STEPS = 48  # drawn of one sequence; some 30 visits still read well
_TAIL = 8


@dataclass(frozen=True)
class Elided:
    """Stands for this many steps that are not drawn."""

    steps: int


Shown: TypeAlias = Visit | Loop | Elided


def shorten(graph: BlockGraph) -> list[Shown]:
    """The steps of a graph or a loop's body, the middle of a long one replaced by one mark."""
    steps: list[Shown] = list(graph.steps())
    if len(steps) <= MAX_STEPS:
        return steps
    head = MAX_STEPS - _TAIL
    return [*steps[:head], Elided(len(steps) - MAX_STEPS), *steps[-_TAIL:]]
