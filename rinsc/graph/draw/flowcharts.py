"""The block graph as a flowchart: in Mermaid, which code hosts draw, and in Graphviz."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count, pairwise
from typing import TypeAlias

from rinsc.graph.draw.labels import (
    Colour,
    Drawn,
    Elided,
    block_colours,
    block_text,
    caption,
    cut,
    joins_of,
    layers_text,
    params_text,
    shorten,
    times_text,
    towers_of,
    visit_text,
)
from rinsc.graph.nodes import BlockGraph, Visit


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


@dataclass(frozen=True)
class Flow:
    """What a tower is drawn as: from the box ``start`` over its items to the box ``end``."""

    name: str  # nothing where there is only one
    items: tuple[FlowItem, ...]

    @property
    def start(self) -> str:
        return f"input_{self.name}" if self.name else "input"

    @property
    def end(self) -> str:
        return f"output_{self.name}" if self.name else "output"

    def edges(self) -> Iterator[tuple[str, str]]:
        """Keys of the boxes along which the state flows once, from ``start`` to ``end``."""
        yield from pairwise([self.start, *(node.key for node in nodes_in(self.items)), self.end])


def flows(graph: Drawn, param_counts: Mapping[str, int]) -> list[Flow]:
    """The towers in order, each with its items; a block drawn before is marked as shared."""
    numbers, drawn = count(1), set[str]()
    return [
        Flow(name, _items(tower, param_counts, numbers, drawn))
        for name, tower in towers_of(graph).items()
    ]


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


def back_edge(loop: FlowLoop) -> tuple[str, str]:
    """From the last node of a loop's body to the first."""
    keys = [node.key for node in nodes_in(loop.items)]
    return keys[-1], keys[0]


def _items(
    graph: BlockGraph, param_counts: Mapping[str, int], numbers: Iterator[int], drawn: set[str]
) -> tuple[FlowItem, ...]:
    items: list[FlowItem] = []
    for step in shorten(graph):
        number = next(numbers)
        if isinstance(step, Visit):
            lines = _lines(graph, step, param_counts, shared=step.block in drawn)
            items.append(FlowNode(f"visit{number}", step.block, lines))
            drawn.add(step.block)
        elif isinstance(step, Elided):
            items.append(FlowNode(f"more{number}", None, (f"… {step.steps} more steps …",)))
        else:
            body = _items(step.body, param_counts, numbers, drawn)
            items.append(FlowLoop(f"loop{number}", step.name, step.rounds, step.options.text, body))
    return tuple(items)


def _lines(
    graph: BlockGraph, visit: Visit, param_counts: Mapping[str, int], *, shared: bool
) -> tuple[str, ...]:
    block = graph.blocks[visit.block]
    own = "shared" if shared else params_text(param_counts[block.name])
    rest = (block_text(block, graph.spec), visit_text(visit))
    return (block.name, layers_text(block.layers), own, *filter(None, rest))


def to_mermaid(graph: Drawn, param_counts: Mapping[str, int]) -> str:
    """Mermaid text: loops are subgraphs with a dotted back edge that bears their count."""
    towers = flows(graph, param_counts)
    items = tuple(item for tower in towers for item in tower.items)
    classes = {name: f"block{index}" for index, name in enumerate(graph.blocks)}
    drawn = {node.block for node in nodes_in(items)}
    title = f"{cut(graph.spec.text, 120)} · {caption(graph, param_counts)}"
    lines = ["---", f"title: {json.dumps(title, ensure_ascii=False)}", "---", "flowchart LR"]
    for tower in towers:
        lines += [f'  {tower.start}(["{tower.name or "tokens"}"])']
        lines += _mermaid_items(tower.items, classes, "  ")
        lines += [f'  {tower.end}(["logits"])']
        lines += [f"  {source} --> {target}" for source, target in tower.edges()]
    ends = {tower.name: tower.end for tower in towers}
    for name, joined in joins_of(graph).items():
        lines.append(f'  join_{name}(["{name}"])')
        lines += [f"  {ends[tower]} --> join_{name}" for tower in joined]
    for loop in loops_in(items):
        source, target = back_edge(loop)
        lines.append(f'  {source} -.->|"{times_text(loop.rounds)}"| {target}')
    for name, colour in block_colours(graph).items():
        if name in drawn:
            style = f"fill:{colour.fill},stroke:{colour.fill},color:{colour.text}"
            lines.append(f"  classDef {classes[name]} {style}")
    return "\n".join(lines) + "\n"


def _mermaid_items(
    items: tuple[FlowItem, ...], classes: Mapping[str, str], indent: str
) -> Iterator[str]:
    for item in items:
        if not isinstance(item, FlowNode):
            yield f'{indent}subgraph {item.key}["{_escape(item.title)}"]'
            yield from _mermaid_items(item.items, classes, indent + "  ")
            yield f"{indent}end"
        else:
            text = "<br/>".join(_escape(line) for line in item.lines)
            style = "" if item.block is None else f":::{classes[item.block]}"
            yield f'{indent}{item.key}("{text}"){style}'


def _escape(text: str) -> str:
    return text.replace("#", "#35;").replace('"', "#quot;").replace("<", "#lt;")


def to_dot(graph: Drawn, param_counts: Mapping[str, int]) -> str:
    """DOT text: loops are clusters with a dashed back edge that bears their count."""
    towers = flows(graph, param_counts)
    items = tuple(item for tower in towers for item in tower.items)
    colours = block_colours(graph)
    lines = [
        "digraph rinsc {",
        f"  label={_quote(cut(graph.spec.text, 120), caption(graph, param_counts))};",
        '  rankdir=LR; labelloc=t; fontname="Helvetica"; bgcolor="white";',
        '  node [shape=box, style="rounded,filled", fontname="Helvetica", fillcolor="white"];',
        '  edge [fontname="Helvetica"];',
    ]
    for tower in towers:
        lines += [f'  {tower.start} [label="{tower.name or "tokens"}", shape=plaintext];']
        lines += _dot_items(tower.items, colours, "  ")
        lines += [f'  {tower.end} [label="logits", shape=plaintext];']
        lines += [f"  {source} -> {target};" for source, target in tower.edges()]
    ends = {tower.name: tower.end for tower in towers}
    for name, joined in joins_of(graph).items():
        lines.append(f'  join_{name} [label="{name}", shape=plaintext];')
        lines += [f"  {ends[tower]} -> join_{name};" for tower in joined]
    for loop in loops_in(items):
        source, target = back_edge(loop)
        label = _quote(times_text(loop.rounds))
        look = "style=dashed, constraint=false"
        lines.append(f"  {source} -> {target} [label={label}, {look}];")
    return "\n".join([*lines, "}"]) + "\n"


def _dot_items(
    items: tuple[FlowItem, ...], colours: Mapping[str, Colour], indent: str
) -> Iterator[str]:
    for item in items:
        if not isinstance(item, FlowNode):
            yield f"{indent}subgraph cluster_{item.key} {{"
            yield f"{indent}  label={_quote(item.title)}; style=rounded;"
            yield from _dot_items(item.items, colours, indent + "  ")
            yield f"{indent}}}"
        elif item.block is None:
            yield f"{indent}{item.key} [label={_quote(*item.lines)}, shape=plaintext];"
        else:
            colour = colours[item.block]
            look = f'color="{colour.fill}", fillcolor="{colour.fill}", fontcolor="{colour.text}"'
            yield f"{indent}{item.key} [label={_quote(*item.lines)}, {look}];"


def _quote(*lines: str) -> str:
    """A quoted DOT string of one or more centred lines."""
    escaped = (line.replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join(escaped) + '"'
