"""Labels and colours of every drawing: totals in words, long sequences shortened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from rinsc.errors import listed, plural
from rinsc.graph.nodes import Block, BlockGraph, GraphNode, Loop, Visit
from rinsc.graph.towers_graph import TowersGraph
from rinsc.graph.towers_graph import towers_of as towers_of
from rinsc.spec import ModelSpec
from rinsc.spec.kinds import layers_kind
from rinsc.spec.pairing import IMAGE, TEXT

Drawn: TypeAlias = BlockGraph | TowersGraph  # what every drawing takes


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
    repeated = f"each {times_text(visit.each)}" if visit.each > 1 else ""
    return ", ".join(filter(None, (repeated, "reversed" if visit.reverse else "")))


def block_text(block: Block, spec: ModelSpec) -> str:
    """What is special about a block among those of its model; mostly nothing."""
    kind = block.kind if block.kind != layers_kind(spec.kind) else ""
    return ", ".join(filter(None, (kind, f"{block.tie} tied" if block.tie else "")))


def params_text(count: int) -> str:
    return plural(count, "parameter", short_number(count))


def cut(line: str, length: int) -> str:
    """The words, shortened to ``length`` characters where they are longer."""
    return line if len(line) <= length else line[: max(length - 1, 0)] + "…"


def output_text(tower: BlockGraph) -> str:
    """What comes out of a tower, as its end is called."""
    return "embedding" if tower.spec.kind in (IMAGE, TEXT) else "logits"


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


@dataclass(frozen=True)
class Feed:
    """What every round of a repeat is fed: the state of ``source``, in words.

    Where ``alone``, no other state enters the repeat.
    """

    source: str
    alone: bool


def feeds(graph: BlockGraph) -> dict[str, Feed]:
    """By its name, what the edges of a graph feed into each repeat that is fed.

    >>> import rinsc
    >>> feeds(rinsc.build_graph(rinsc.model_spec("P R^4{inject=concat}", preset="tiny")))
    {'R': Feed(source='P', alone=False)}
    """
    fed = dict[str, Feed]()
    for step, state, injection in graph.wired():
        if isinstance(step, Loop):
            if injection is not None:
                fed[step.name] = Feed(_node_text(graph.nodes[injection]), state is None)
            fed |= feeds(step.body)
    return fed


def _node_text(node: GraphNode) -> str:
    if isinstance(node, Visit):
        return node.block
    return f"repeat {node.name}" if isinstance(node, Loop) else "the state that enters"


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


# Hues after Okabe and Ito, "Color Universal Design": told apart with any colour vision. Three are
# a little darker than there, so that small white text on them can be read.
HUES = ("#0072b2", "#e69f00", "#007f5c", "#c44f00", "#56b4e9", "#cc79a7", "#f0e442", "#6b7280")

INK = "#1b2330"
PAPER = "#ffffff"
_TOWARDS = ((PAPER, 0.0), (PAPER, 0.55), (INK, 0.45))
READABLE = 4.5  # contrast of text, as WCAG 2 wants it
PLAIN = len(HUES) * len(_TOWARDS)  # blocks that a colour alone tells apart
_ANGLES = (45, 135, 0, 90)


@dataclass(frozen=True)
class Colour:
    """What a box is filled with, and what is written on it."""

    fill: str
    text: str
    stripes: Stripes | None = None


@dataclass(frozen=True)
class Stripes:
    """Lines over a fill, ``angle`` degrees from upright, on which the text can be read as well."""

    colour: str
    angle: int
    spacing: int


def block_colours(graph: BlockGraph | TowersGraph) -> dict[str, Colour]:
    """Colours by block name, in order of first use; no two are alike.

    After `PLAIN` blocks the colours come again with stripes, and a little darker or lighter.
    """
    return {name: _colour(index) for index, name in enumerate(graph.blocks)}


def _colour(index: int) -> Colour:
    towards, amount = _TOWARDS[index // len(HUES) % len(_TOWARDS)]
    fill = _mix(HUES[index % len(HUES)], towards, amount)
    text = max(PAPER, INK, key=lambda text: contrast(fill, text))
    turn = index // PLAIN
    if turn == 0:
        return Colour(fill, text)
    away = INK if text == PAPER else PAPER
    striped = _mix(fill, away, 0.3 * turn / (turn + 4))
    longer, angle = divmod(turn - 1, len(_ANGLES))
    stripes = Stripes(_stripe(striped, text, away), _ANGLES[angle], 8 + 4 * longer)
    return Colour(striped, text, stripes)


def _stripe(fill: str, text: str, away: str) -> str:
    """The colour that is told from the fill most easily, among those that the text allows."""
    shades = [_mix(fill, away, 0.45), _mix(fill, text, 0.15), _mix(fill, text, 0.25)]
    readable = [shade for shade in shades if contrast(shade, text) >= READABLE]
    return max(readable, key=lambda shade: contrast(shade, fill))


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, 1 to 21, as WCAG 2 defines it."""
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in _channels(colour))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _mix(colour: str, other: str, amount: float) -> str:
    pairs = zip(_channels(colour), _channels(other), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * amount):02x}" for a, b in pairs)


def _channels(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))
