"""The block graph as a flowchart: in Mermaid, which code hosts draw, and in Graphviz."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple, TypeAlias

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
    output_text,
    params_text,
    shorten,
    times_text,
    towers_of,
    visit_text,
)
from rinsc.graph.nodes import BlockGraph, Loop, Visit, Wired


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


class Edge(NamedTuple):
    """From one box to another; with the ``injection`` that it is, where it is one."""

    source: str
    target: str
    injection: str = ""


@dataclass(frozen=True)
class Flow:
    """What a tower is drawn as: from the box ``start`` over its items to the box ``end``.

    The state flows once along its edges; rounds are fed along those that are injections.
    """

    start: str
    items: tuple[FlowItem, ...]
    end: str
    name: str  # nothing where there is only one
    edges: tuple[Edge, ...]
    output: str  # what comes out, as the end is called


def flows(graph: Drawn, param_counts: Mapping[str, int]) -> list[Flow]:
    """The towers in order, each with its items; a block drawn before is marked as shared."""
    numbers, drawn, towers = count(1), set[str](), []
    for name, tower in towers_of(graph).items():
        start, end = (f"{side}_{name}" if name else side for side in ("input", "output"))
        chart = _Chart(param_counts, numbers, drawn, start)
        items = chart.items(tower)
        edges = (*chart.edges, Edge(chart.last, end))
        towers.append(Flow(start, items, end, name, edges, output_text(tower)))
    return towers


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


@dataclass
class _Chart:
    """Boxes and edges of one tower; ``last`` is the box drawn last."""

    param_counts: Mapping[str, int]
    numbers: Iterator[int]
    drawn: set[str]
    last: str
    edges: list[Edge] = field(default_factory=list)
    entered: list[tuple[Wired, str]] = field(default_factory=list)  # loops before their first box

    def items(self, graph: BlockGraph) -> tuple[FlowItem, ...]:
        items: list[FlowItem] = []
        wired, boxes = list(graph.wired()), [self.last]  # what each node ends in
        for step in shorten(graph):
            number = next(self.numbers)
            if isinstance(step, Visit):
                lines = _lines(graph, step, self.param_counts, shared=step.block in self.drawn)
                items.append(FlowNode(f"visit{number}", step.block, lines))
                self.drawn.add(step.block)
                self.box(f"visit{number}")
            elif isinstance(step, Elided):
                items.append(FlowNode(f"more{number}", None, (f"… {step.steps} more steps …",)))
                self.box(f"more{number}")
                boxes += [self.last] * (step.steps - 1)
            else:
                edges = wired[len(boxes) - 1]
                self.entered.append((edges, boxes[edges.entry]))
                frame = f"loop{number}", step.name, step.rounds, step.options.text
                items.append(FlowLoop(*frame, self.items(step.body)))
            boxes.append(self.last)
        return tuple(items)

    def box(self, key: str) -> None:
        """Draw the edges into a box: the state's, and what feeds the loops that begin with it."""
        if all(wired.state is not None for wired, _ in self.entered):
            self.edges.append(Edge(self.last, key))
        for wired, source in self.entered:
            if wired.injection is not None and isinstance(wired.step, Loop):
                self.edges.append(Edge(source, key, f"inject={wired.step.options.inject}"))
        self.last, self.entered = key, []


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
        lines += [f'  {tower.end}(["{tower.output}"])']
        for source, target, injection in tower.edges:
            arrow = f'-.->|"{injection}"|' if injection else "-->"
            lines.append(f"  {source} {arrow} {target}")
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
        lines += [f'  {tower.end} [label="{tower.output}", shape=plaintext];']
        for source, target, injection in tower.edges:
            look = f" [label={_quote(injection)}, style=dotted]" if injection else ""
            lines.append(f"  {source} -> {target}{look};")
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
